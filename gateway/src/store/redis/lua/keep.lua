-- Keeps a content under its name.
redis.call('SET', KEYS[1], ARGV[1])
return 1
