-- How a commit ended, asked where it is decided: commit | '1' to end one that nobody goes on with.
local key = KEYS[1] .. 'm:' .. ARGV[1]
local marker = redis.call('GET', key)
if marker then
  return marker
end
if ARGV[2] == '1' then
  redis.call('SET', key, 'a', 'PX', 3600000)
  return 'a'
end
return 'u'
