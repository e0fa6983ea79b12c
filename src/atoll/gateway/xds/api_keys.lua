-- X-API-Key becomes Authorization: Bearer <short-lived token>, before the token is checked. One copy runs in each worker thread.
--
-- Keys are exchanged at auth (RFC 8693) and the answers remembered: a token until it has expired, a refusal for a few seconds.
-- A token is renewed when a fifth of its time is left, by one request at a time; while auth can't be reached it goes on being
-- used until it has expired. The memory is two generations, of which the older is dropped when the younger is full.

local KEY = "^atoll_[%w-]+_[%w_-]+$"
local LONGEST, GENERATION, REFUSED_S, TIMEOUT_MS = 256, 4096, 5, 2000
local MARGIN_S = 2 -- as long as the answer may have been on its way, so that no token is sent on that a service finds expired
local GRANT = "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token_type=urn:atoll:api-key&subject_token="
local younger, older, count = {}, {}, 0

local function remember(key, entry)
  if younger[key] == nil then
    if count >= GENERATION then
      older, younger, count = younger, {}, 0
    end
    count = count + 1
  end
  younger[key] = entry
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

local function entry_of(handle, key)
  local now = os.time()
  local known = younger[key] or older[key]
  if known and known.ends > now then
    if known.refused or known.renew > now then
      return known
    end
    known.renew = now + REFUSED_S -- the others go on with it meanwhile
  else
    known = nil
  end
  local found = exchanged(handle, key)
  if found then
    remember(key, found)
  end
  return found or known
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
  elseif entry.refused then
    handle:respond({ [":status"] = "401", ["www-authenticate"] = "Bearer" }, "The API key is not known, or is not good any more")
  else
    handle:headers():replace("authorization", "Bearer " .. entry.token)
  end
end
