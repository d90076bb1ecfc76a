
-- Ids that one node gives out: kind | node | how many | the highest stored one | '1' for more.
-- Answers the first and the last of the node's block, and the first id of no block.
local key, call = KEYS[1] .. 'ids:' .. ARGV[1], redis.call
local count, seen = tonumber(ARGV[3]), tonumber(ARGV[4])
local next = tonumber(call('HGET', key, 'next') or '1')
local own = call('HGET', key, 'node:' .. ARGV[2])
if not own or ARGV[5] == '1' or seen >= next then
  local first = math.max(next, seen + 1)
  next = first + count
  own = string.format('%.0f %.0f', first, next - 1)
  call('HSET', key, 'next', string.format('%.0f', next))
  call('HSET', key, 'node:' .. ARGV[2], own)
end
return own .. string.format(' %.0f', next)
