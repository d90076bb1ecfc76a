
-- mode ('c' commits, 'p' prepares) | commit | shards that prepared it, or the deciding one
-- | locks, checks, operations: how many | these | additions to the journal, each with its length
local mode, id, others = ARGV[1], ARGV[2], ARGV[3]
local lock_count, check_count, op_count = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local marker = call('GET', RECORDS .. 'm:' .. id)
if marker then
  -- Written again: WAIT and WAITAOF prove what their connection wrote, and nothing it did not.
  call('SET', RECORDS .. 'm:' .. id, marker, 'KEEPTTL')
  return { 'm', marker }
end
local time = call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
if call('EXISTS', RECORDS .. 'held') == 1 then
  return redis.error_reply('BUSY the records are being moved or backed up')
end
local has_locks = call('EXISTS', RECORDS .. 'locks') == 1
local locks, at = {}, 7
for i = at, at + lock_count - 1 do
  locks[#locks + 1] = ARGV[i]
  local holder = has_locks and call('HGET', RECORDS .. 'locks', ARGV[i])
  if holder and string.sub(holder, 1, 16) ~= id then
    return { 'l', holder, now }
  end
end
at = at + lock_count
-- Prepared before: written again, as above.
local is_again = mode == 'p' and call('EXISTS', RECORDS .. 't:' .. id) == 1
for i = at, at + check_count * 4 - 1, 4 do
  local code, key, field, expected = ARGV[i], RECORDS .. ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local found
  if code == 'v' then
    found = call('GET', key)
  else
    found = call('HGET', key, field)
  end
  if not is_again and (found and '1' .. found or '0') ~= expected then
    return { 's' }
  end
end
at = at + check_count * 4
local ops = {}
for i = at, at + op_count * 4 - 1 do
  ops[#ops + 1] = ARGV[i]
end
at = at + op_count * 4
if mode == 'p' then
  call('SET', RECORDS .. 't:' .. id, cmsgpack.pack({ locks, ops }))
  for _, lock in ipairs(locks) do
    call('HSET', RECORDS .. 'locks', lock, id .. others .. now)
  end
  return { 'p' }
end
-- Its checks stand before its writes, and nothing else here can fail.
while at <= #ARGV do
  local parts = {}
  for i = at + 1, at + tonumber(ARGV[at]) do
    parts[#parts + 1] = ARGV[i]
  end
  local added = journal(parts)
  if added.err then
    return added
  end
  at = at + 1 + #parts
end
apply(ops)
if others == '' then
  -- Long enough for a request that is repeated because its answer was lost.
  call('SET', RECORDS .. 'm:' .. id, 'c', 'PX', 120000)
else
  call('SET', RECORDS .. 'm:' .. id, 'c')
  call('HSET', RECORDS .. 'open', id, others)
end
return { 'c' }
