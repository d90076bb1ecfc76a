
-- Leases a timer whose time has not come: now, end of the lease, token, organization, timer.
local score = call('ZSCORE', BASE .. 't:' .. ARGV[4], ARGV[5])
local seen = tonumber(call('HGET', META, 'due') or '0')
if not score or tonumber(score) <= math.max(tonumber(ARGV[1]), seen) then
  return 0
end
local place = string.sub(ARGV[5], 1, 12)
local till = string.match(call('HGET', BASE .. 'taken', place) or '', ' (%d+)$')
if till and tonumber(till) > tonumber(ARGV[1]) then
  return 0
end
call('HSET', BASE .. 'taken', place, ARGV[3] .. ' ' .. ARGV[2])
return 1
