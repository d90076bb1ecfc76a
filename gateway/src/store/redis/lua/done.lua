-- Everybody knows how a commit ended: its marker need not stay.
redis.call('HDEL', KEYS[1] .. 'open', ARGV[1])
return redis.call('PEXPIRE', KEYS[1] .. 'm:' .. ARGV[1], 600000)

