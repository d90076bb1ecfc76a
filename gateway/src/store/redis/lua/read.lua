-- How many locks | locks | reads of five arguments each. Answers who holds which of the locks, by
-- holder and age in milliseconds, and then each read.
local call = redis.call
local count = tonumber(ARGV[1])
local held, found = {}, {}
if call('EXISTS', RECORDS .. 'locks') == 1 then
  local time = call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  for i = 2, count + 1 do
    local holder = call('HGET', RECORDS .. 'locks', ARGV[i])
    if holder then
      held[#held + 1] = holder
      held[#held + 1] = string.format('%.0f', now - tonumber(string.sub(holder, 19)))
    end
  end
end
local function with_values(key, members)
  local rows = {}
  for from = 1, #members, 1000 do
    local till = math.min(from + 999, #members)
    local values = call('HMGET', key .. '=', unpack(members, from, till))
    for i = from, till do
      rows[#rows + 1] = members[i]
      rows[#rows + 1] = values[i - from + 1]
    end
  end
  return rows
end
for i = count + 2, #ARGV, 5 do
  local code, key, a, b, c = ARGV[i], RECORDS .. ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local reply
  if code == 'g' then
    reply = call('HGET', key, a)
  elseif code == 'x' then
    reply = call('HEXISTS', key, a)
  elseif code == 's' then
    reply = call('ZSCORE', key, a)
  elseif code == 'v' then
    reply = call('GET', key)
  elseif code == 'k' then
    reply = call('ZRANGEBYLEX', key, a, b, 'LIMIT', 0, c)
  elseif code == 'r' then
    reply = call('ZREVRANGEBYLEX', key, a, b, 'LIMIT', 0, c)
  elseif code == 'e' then
    reply = with_values(key, call('ZRANGEBYLEX', key, a, b, 'LIMIT', 0, c))
  elseif code == 'f' then
    reply = with_values(key, call('ZREVRANGEBYLEX', key, a, b, 'LIMIT', 0, c))
  elseif code == 'i' then
    reply = call('ZRANGE', key, a, b)
  elseif code == 'j' then
    reply = with_values(key, call('ZRANGE', key, a, b))
  elseif code == 'n' then
    reply = call('ZCARD', key)
  elseif code == 'a' then
    reply = call('HGETALL', key)
  elseif code == 'm' then
    reply = call('XRANGE', key, a, b, 'COUNT', c)
  end
  found[#found + 1] = reply
end
return { held, found }
