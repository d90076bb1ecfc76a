
-- Timers that are due at ARGV[2], of each organization at most as many as asked for, and the end of
-- the log that tells why some are.
if not is_owner(ARGV[1]) then
  return redis.error_reply(FENCED)
end
local now, found = tonumber(ARGV[2]), {}
if now > tonumber(call('HGET', META, 'due') or '0') then
  -- What is due here cannot be taken back any more, whatever another node's clock says.
  call('HSET', META, 'due', ARGV[2])
end
local has_taken = call('HLEN', BASE .. 'taken') > 0
for i = 3, #ARGV, 2 do
  local org, limit = ARGV[i], tonumber(ARGV[i + 1])
  local key = BASE .. 't:' .. org
  local rows = call('ZRANGEBYSCORE', key, '-inf', ARGV[2], 'WITHSCORES', 'LIMIT', 0, limit)
  local coming = call('ZRANGEBYSCORE', key, '(' .. ARGV[2], '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
  local next, kept = tonumber(coming or '0'), rows
  if #rows >= 2 * limit then
    next = now
  end
  if has_taken then
    kept = {}
    for j = 1, #rows, 2 do
      local place = string.sub(rows[j], 1, 12)
      local till = string.match(call('HGET', BASE .. 'taken', place) or '', ' (%d+)$')
      if till and tonumber(till) > now then
        next = next == 0 and tonumber(till) or math.min(next, tonumber(till))
      else
        kept[#kept + 1] = rows[j]
        kept[#kept + 1] = rows[j + 1]
      end
    end
  end
  found[#found + 1] = { org, decimal(next), kept }
end
return { call('HGET', META, 'pos') or '0', found }
