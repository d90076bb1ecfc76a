
-- Parts of blocks: position, offset, length, and so on.
local found, at, bytes = {}, nil, nil
for i = 1, #ARGV, 3 do
  if at ~= ARGV[i] then
    at, bytes = ARGV[i], nil
    local entry = call('XRANGE', LOG, at .. '-0', at .. '-0')[1]
    for j = 1, entry and #entry[2] or 0, 2 do
      if entry[2][j] == 'b' then
        bytes = entry[2][j + 1]
      end
    end
  end
  local from = tonumber(ARGV[i + 1])
  found[#found + 1] = bytes and string.sub(bytes, from + 1, from + tonumber(ARGV[i + 2])) or false
end
return found
