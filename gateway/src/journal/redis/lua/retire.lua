
-- Takes a finished block out of the log, with the index rows that point at it.
local function retire(pos, entry)
  local fields = {}
  for i = 1, #entry[2], 2 do
    fields[entry[2][i]] = entry[2][i + 1]
  end
  local rows, at, eight = fields.x or '', 1, big(pos)
  while at <= #rows do
    local kind, org, length = string.byte(rows, at), struct.unpack('>i4', rows, at + 1), string.byte(rows, at + 5)
    local row = string.sub(rows, at + 6, at + 5 + length)
    at = at + 6 + length
    if kind == 108 then -- l: listed root
      call('ZREM', BASE .. 'l:' .. org, string.sub(row, 1, 16) .. eight .. string.sub(row, 17))
    elseif kind == 111 then -- o: outcomes
      call('ZREM', BASE .. 'o:' .. org, big(tonumber(fields.t)) .. eight .. row)
    elseif kind == 114 then -- r: sent again
      if call('HGET', BASE .. 're', row) == decimal(pos) then
        call('HDEL', BASE .. 're', row)
      end
    end
  end
  call('XDEL', LOG, entry[1])
  call('HINCRBY', META, 'stored', -#(fields.b or ''))
end
