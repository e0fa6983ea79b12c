-- Hands a request and its answer to the process that compares answers. Copies only: nothing is held back, changed or delayed,
-- and an error in here ends the copying and nothing else.
--
-- The message is a row of netstrings (`5:hello`): mirror, which of Envoy's threads sends it, its number there for this mirror (from
-- which it is seen how many never arrived), request in Base64, headers of the answer, its body, and why the two can't be compared, or
-- nothing. The request is such a row too: headers, body, why not. Headers are names and values in turn.

local LIMIT_BYTES = 262144
local PATIENCE_MS = 2000
local SPACE = "atoll.mirror"
local THREAD = tostring({}) .. " " .. os.time()
local sent = {}

local function netstring(text)
  return #text .. ":" .. text
end

local function headers_of(handle)
  local found = {}
  for name, value in pairs(handle:headers()) do
    found[#found + 1] = netstring(name) .. netstring(value)
  end
  return netstring(table.concat(found))
end

-- The body and why not, one of them empty. The loop is resumed for each chunk as it passes.
local function body_of(handle)
  local kept, size = {}, 0
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    size = size + length
    if size > LIMIT_BYTES then
      kept = {}
    elseif length > 0 then
      kept[#kept + 1] = chunk:getBytes(0, length)
    end
  end
  local why = size > LIMIT_BYTES and "too_large" or ""
  return netstring(table.concat(kept)) .. netstring(why)
end

function envoy_on_request(handle)
  if handle:headers():get("upgrade") ~= nil then
    return
  end
  local headers = headers_of(handle)
  local message = headers .. body_of(handle)
  -- Base64, because metadata is text. It goes with the request, whatever becomes of that.
  handle:streamInfo():dynamicMetadata():set(SPACE, "request", handle:base64Escape(message))
end

function envoy_on_response(handle)
  local kept = handle:streamInfo():dynamicMetadata():get(SPACE)
  if kept == nil then
    return -- refused before this filter was reached, or answered before it was read
  end
  -- Everything of Envoy's must be read before the first chunk is waited for.
  local mirror, request = handle:filterContext():get("mirror"), kept["request"]
  local headers = headers_of(handle)
  local kind = handle:headers():get("content-type") or ""
  local body = netstring("") .. netstring("streaming")
  if kind:sub(1, 17) ~= "text/event-stream" and kind:sub(1, 16) ~= "application/grpc" then
    body = body_of(handle)
  end
  local call = {[":method"] = "POST", [":path"] = "/samples", [":authority"] = "mirror"}
  sent[mirror] = (sent[mirror] or 0) + 1
  local from = netstring(mirror) .. netstring(THREAD) .. netstring(tostring(sent[mirror]))
  local message = from .. netstring(request) .. headers .. body
  handle:httpCall("atoll.mirror", call, message, PATIENCE_MS, true)
end
