
-- Does what was prepared, or forgets it: commit | 'c' or 'a'.
local id = ARGV[1]
local prepared = call('GET', RECORDS .. 't:' .. id)
if not prepared then
  return 0
end
local locks, ops = unpack(cmsgpack.unpack(prepared))
if ARGV[2] == 'c' then
  apply(ops)
end
for _, lock in ipairs(locks) do
  local holder = call('HGET', RECORDS .. 'locks', lock)
  if holder and string.sub(holder, 1, 16) == id then
    call('HDEL', RECORDS .. 'locks', lock)
  end
end
call('DEL', RECORDS .. 't:' .. id)
return 1
