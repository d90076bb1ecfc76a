
-- Drops what retention no longer keeps, and tells the owner what others did: epoch, now, instants
-- before which blocks and dead letters go, bytes that the log may take, the first position that the
-- owner has not seen yet.
if not is_owner(ARGV[1]) then
  return redis.error_reply(FENCED)
end
local now, blocks, letters = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local limit, unseen = tonumber(ARGV[5]), tonumber(ARGV[6])
local STEP = 64
local gone = call('HGET', META, 'gone') or '0'
local entries, moved = call('XRANGE', LOG, '(' .. gone .. '-0', '+', 'COUNT', 1), 0
while entries[1] and moved < STEP do
  local entry = entries[1]
  local id, at = string.match(entry[1], '^%d+'), nil
  for j = 1, #entry[2], 2 do
    if entry[2][j] == 't' then
      at = tonumber(entry[2][j + 1])
    end
  end
  local fits = tonumber(call('HGET', META, 'stored') or '0') <= limit
  if tonumber(id) >= unseen or (at and at >= blocks and fits) then
    break
  end
  if call('HEXISTS', BASE .. 'left', id) == 0 and call('HEXISTS', BASE .. 'later', id) == 0 then
    retire(tonumber(id), entry)
  end
  gone, moved = id, moved + 1
  call('HSET', META, 'gone', gone)
  entries = call('XRANGE', LOG, '(' .. gone .. '-0', '+', 'COUNT', 1)
end
local dropped = 0
for _, row in ipairs(call('ZRANGE', BASE .. 'da', 0, STEP - 1)) do
  local delivery = string.sub(row, 13)
  local letter = call('HGET', BASE .. 'd', delivery)
  if letter and struct.unpack('>I8', letter, 33) >= letters then
    break
  end
  if letter then
    call('ZREM', BASE .. 'd:' .. struct.unpack('>i4', letter, 29), row)
    call('HDEL', BASE .. 'd', delivery)
  end
  call('ZREM', BASE .. 'da', row)
  dropped = dropped + 1
end
-- A notification can be planned for a year ahead; later nothing of it waits.
call('ZREMRANGEBYSCORE', BASE .. 'x', '-inf', decimal(now - 400 * 86400000))
if call('HLEN', BASE .. 'writers') > 32 then
  local writers = call('HGETALL', BASE .. 'writers')
  for i = 1, #writers, 2 do
    -- Nobody repeats a request for an hour.
    if tonumber(string.match(writers[i + 1], '^%d+ (%d+)')) < now - 3600000 then
      call('HDEL', BASE .. 'writers', writers[i])
    end
  end
end
local hurried = call('SMEMBERS', BASE .. 'hurried')
if #hurried > 0 then
  call('DEL', BASE .. 'hurried')
end
return { (moved == STEP or dropped == STEP) and 1 or 0, call('HGET', META, 'pos') or '0', hurried, mark_of(decimal(unseen - 1)) }
