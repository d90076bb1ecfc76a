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

local FENCED = 'FENCED another node owns the shard'
