
-- Unfinished blocks from ARGV[1] to before ARGV[2], until they are ARGV[3] bytes together.
local rows = call('XPENDING', LOG, 'dispatch', ARGV[1] .. '-0', '(' .. ARGV[2] .. '-0', 64)
local found, bytes, is_all = {}, 0, #rows < 64
for i, row in ipairs(rows) do
  local id = row[1]
  local pos = tonumber(string.match(id, '^%d+'))
  local entry = call('XRANGE', LOG, id, id)[1]
  local done = call('ZRANGEBYLEX', BASE .. 'done', '[' .. big(pos), '(' .. big(pos + 1))
  for j, place in ipairs(done) do
    done[j] = string.sub(place, 9)
  end
  found[i] = { decimal(pos), entry and entry[2] or false, table.concat(done) }
  if entry then
    for j = 2, #entry[2], 2 do
      bytes = bytes + #entry[2][j]
    end
  end
  if bytes >= tonumber(ARGV[3]) and i < #rows then
    is_all = false
    break
  end
end
return { is_all and 1 or 0, found }
