-- Keys of a shard differ in what follows its meta key without the last letter.
local META = KEYS[1]
local BASE = string.sub(META, 1, -2)
local LOG = BASE .. 'q'
local call, pcall = redis.call, redis.pcall

-- Positions stay below 2^53, where Lua's numbers are exact.
local function decimal(n)
  return string.format('%.0f', n)
end

local function big(n)
  return struct.pack('>I8', n)
end

local function is_owner(token)
  return call('HGET', BASE .. 'owner', 't') == token
end

-- Who wrote the block at a position, and which of its requests that was.
local function mark_of(id)
  local entry = call('XRANGE', LOG, id .. '-0', id .. '-0')[1]
  for i = 1, entry and #entry[2] or 0, 2 do
    if entry[2][i] == 'w' then
      return entry[2][i + 1]
    end
  end
  return ''
end

-- True if a bucket tells of a notification: for each block its position, how many rows follow, and
-- these, each an id of 16 bytes and an index of 4.
local function is_told(bucket, id)
  local rows = call('GET', BASE .. 'w:' .. bucket) or ''
  local at = 1
  while at <= #rows do
    local from = at + 12
    at = from + struct.unpack('>I4', rows, at + 8) * 20
    local hit = string.find(rows, id, from, true)
    if not hit then
      return false
    end
    while hit and hit < at do
      if (hit - from) % 20 == 0 then
        return true
      end
      hit = string.find(rows, id, hit + 1, true)
    end
  end
  return false
end

local FENCED = 'FENCED another node owns the shard'
