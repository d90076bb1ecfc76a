-- Keys of records follow `RECORDS`.
local call = redis.call

local function apply(ops)
  for i = 1, #ops, 4 do
    local code, key, a, b = ops[i], RECORDS .. ops[i + 1], ops[i + 2], ops[i + 3]
    if code == 'S' then
      call('HSET', key, a, b)
    elseif code == 'D' then
      call('HDEL', key, a)
    elseif code == 'A' then
      call('ZADD', key, 0, a)
    elseif code == 'Z' then
      call('ZREM', key, a)
    elseif code == 'V' then
      call('SET', key, a)
    elseif code == 'T' then
      -- The last ones stay: who needs older ones starts over.
      call('ZREMRANGEBYRANK', key, 0, -1 - tonumber(a))
    elseif code == 'X' then
      call('XADD', key, 'MAXLEN', '~', 10000, '*', 'i', a, 'u', b)
    end
  end
end
