-- X-API-Key becomes Authorization: Bearer <short-lived token>, before the token is checked. One copy runs in each worker thread.
--
-- Keys are exchanged at auth (RFC 8693) and the answers remembered: a token until it has expired, a refusal for a few seconds.
-- A token is renewed when a fifth of its time is left, by one request at a time; while auth can't be reached it goes on being
-- used until it has expired. A memory is two generations, of which the older is dropped when the younger is full; tokens,
-- refusals and addresses have one each, so that no guess makes it forget a good key.
--
-- Guesses are bounded: an address has a bucket of exchanges, of which one that gave a token costs nothing, and all addresses
-- together have another one. A key whose token is remembered needs no bucket.

local KEY = "^atoll_[%w-]+_[%w_-]+$"
local LONGEST, GENERATION, REFUSED_S, TIMEOUT_MS = 256, 4096, 5, 2000
local MARGIN_S = 2 -- as long as the answer may have been on its way, so that no token is sent on that a service finds expired
local GRANT = "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token_type=urn:atoll:api-key&subject_token="
local OF_ADDRESS, OF_ALL = { most = 10, per_s = 1 / 6 }, { most = 100, per_s = 20 }

local function memory()
  return { younger = {}, older = {}, count = 0 }
end

local function recall(memory, key)
  return memory.younger[key] or memory.older[key]
end

local function remember(memory, key, entry)
  if memory.younger[key] == nil then
    if memory.count >= GENERATION then
      memory.older, memory.younger, memory.count = memory.younger, {}, 0
    end
    memory.count = memory.count + 1
  end
  memory.younger[key] = entry
end

local tokens, refusals, buckets = memory(), memory(), memory()
local everybody = { left = OF_ALL.most, at = os.time() }

-- An address of IPv6 stands for its /64, or for more where zeros are left out of that.
local function bucket_of(handle)
  local address = handle:streamInfo():downstreamRemoteAddress()
  local six = address:match("^%[(.*)%]")
  local name = six and (six:match("^(.-)::") or six):match("^%x*:?%x*:?%x*:?%x*") or address:match("^[^:]*")
  local bucket = recall(buckets, name) or { left = OF_ADDRESS.most, at = os.time() }
  remember(buckets, name, bucket)
  return bucket
end

local function filled(bucket, rate)
  local now = os.time()
  bucket.left = math.min(rate.most, bucket.left + math.max(0, now - bucket.at) * rate.per_s)
  bucket.at = now
  return bucket.left >= 1
end

local function exchanged(handle, key)
  local request = {
    [":method"] = "POST", [":path"] = "@PATH@", [":authority"] = "@CLUSTER@",
    ["content-type"] = "application/x-www-form-urlencoded",
    ["x-request-id"] = handle:headers():get("x-request-id"),
  }
  local headers, body = handle:httpCall("@CLUSTER@", request, GRANT .. key, TIMEOUT_MS)
  local status = headers[":status"]
  if status == "400" or status == "401" then
    return { refused = true, ends = os.time() + REFUSED_S }
  end
  local token = status == "200" and body and body:match('"access_token":"([^"]+)"')
  local left = token and tonumber(body:match('"expires_in":(%d+)'))
  if left then
    left = math.max(1, left - MARGIN_S)
    return { token = token, ends = os.time() + left, renew = os.time() + math.floor(left * 4 / 5) }
  end
  return nil -- auth can't be reached, or can't answer now
end

local function kept(key, entry)
  if entry then
    remember(entry.refused and refusals or tokens, key, entry)
  end
  return entry
end

local function first_entry_of(handle, key)
  local bucket = bucket_of(handle)
  if not filled(bucket, OF_ADDRESS) then
    return { wait_s = math.ceil((1 - bucket.left) / OF_ADDRESS.per_s) }
  end
  if not filled(everybody, OF_ALL) then
    return nil
  end
  bucket.left, everybody.left = bucket.left - 1, everybody.left - 1
  local found = kept(key, exchanged(handle, key))
  if found == nil or not found.refused then
    bucket.left, everybody.left = bucket.left + 1, everybody.left + 1
  end
  return found
end

local function entry_of(handle, key)
  local now = os.time()
  local refusal = recall(refusals, key)
  if refusal and refusal.ends > now then
    return refusal
  end
  local known = recall(tokens, key)
  if known == nil or known.ends <= now then
    return first_entry_of(handle, key)
  end
  if known.renew > now then
    return known
  end
  known.renew = now + REFUSED_S -- the others go on with it meanwhile
  return kept(key, exchanged(handle, key)) or known
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local key = headers:get("@HEADER@")
  if key == nil then
    return
  end
  headers:remove("@HEADER@")
  if headers:get("authorization") ~= nil then
    handle:respond({ [":status"] = "400" }, "Send either X-API-Key or Authorization, not both")
    return
  end
  local entry = { refused = true }
  -- The headers of before are no object any more when this has waited for auth. An error in here lets the request go on without
  -- a token, so it is refused.
  if #key <= LONGEST and key:match(KEY) then
    entry = entry_of(handle, key)
  end
  if entry == nil then
    handle:respond({ [":status"] = "503" }, "")
  elseif entry.wait_s then
    handle:respond({ [":status"] = "429", ["retry-after"] = tostring(entry.wait_s) }, "")
  elseif entry.refused then
    handle:respond({ [":status"] = "401", ["www-authenticate"] = "Bearer" }, "The API key is not known, or is not good any more")
  else
    handle:headers():replace("authorization", "Bearer " .. entry.token)
  end
end
