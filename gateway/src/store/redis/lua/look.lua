-- What is kept under a name.
return redis.call('GET', KEYS[1])
