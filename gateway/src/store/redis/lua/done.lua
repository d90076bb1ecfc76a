-- Everybody knows how a commit ended: its marker need not stay.
return redis.call('PEXPIRE', KEYS[1] .. 'm:' .. ARGV[1], 600000)
