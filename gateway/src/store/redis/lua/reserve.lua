
-- Ids that one process gives out: kind | how many | the highest stored one | the first one that no
-- block may have. Answers the first and the last of a block, and the first id of no block.
local key, call = KEYS[1] .. 'ids:' .. ARGV[1], redis.call
local count, seen, limit = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local first = math.max(tonumber(call('HGET', key, 'next') or '1'), seen + 1)
local next = math.min(first + count, limit)
call('HSET', key, 'next', string.format('%.0f', next))
return string.format('%.0f %.0f %.0f', first, next - 1, next)
