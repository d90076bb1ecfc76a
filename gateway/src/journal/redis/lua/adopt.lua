
-- What a new owner must know. Nobody settles meanwhile: only an owner does, and that is the caller.
if not is_owner(ARGV[1]) then
  return redis.error_reply(FENCED)
end
local pos = call('HGET', META, 'pos') or '0'
pcall('XGROUP', 'CREATE', LOG, 'dispatch', '0', 'MKSTREAM')
local left = call('HLEN', BASE .. 'left')
if call('XPENDING', LOG, 'dispatch')[1] ~= left then
  -- `left` is the truth: what is listed and not in it is finished.
  call('XGROUP', 'DESTROY', LOG, 'dispatch')
  call('XGROUP', 'CREATE', LOG, 'dispatch', '0')
  for _, id in ipairs(call('HKEYS', BASE .. 'left')) do
    call('XCLAIM', LOG, 'dispatch', 'owner', 0, id .. '-0', 'FORCE', 'JUSTID')
  end
end
call('XGROUP', 'SETID', LOG, 'dispatch', pos .. '-0')
return {
  pos,
  call('XPENDING', LOG, 'dispatch', '-', '+', 1),
  call('HGETALL', BASE .. 'c'),
  call('ZRANGE', BASE .. 'alarm', 0, -1, 'WITHSCORES'),
  call('ZRANGE', BASE .. 'chg', 0, -1),
  call('ZRANGE', BASE .. 'part', 0, -1),
  mark_of(pos),
}
