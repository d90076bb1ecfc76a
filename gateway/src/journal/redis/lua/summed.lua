
-- The books of a shard at one instant: last position, the last that retention looked at, whether it
-- was built from another store that had dropped something, the sums named, and those of organizations.
local at = call('HMGET', META, 'pos', 'gone')
return {
  at[1] or '0', at[2] or '0', call('HEXISTS', META, 'dead_dropped'),
  call('HMGET', META, unpack(ARGV)),
  call('HGETALL', BASE .. 'c'),
}
