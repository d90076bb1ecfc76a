
-- Makes timers of one organization due now: now, organization, timers.
local key, count = BASE .. 't:' .. ARGV[2], 0
for i = 3, #ARGV do
  local score = call('ZSCORE', key, ARGV[i])
  if score and tonumber(score) > tonumber(ARGV[1]) then
    call('ZADD', key, ARGV[1], ARGV[i])
    count = count + 1
  end
end
if count > 0 then
  call('ZADD', BASE .. 'alarm', 'LT', ARGV[1], ARGV[2])
  call('SADD', BASE .. 'hurried', ARGV[2])
end
return count
