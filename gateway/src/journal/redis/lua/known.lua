
-- What is known of notifications, each given by its bucket and its id: 'p' for those of which work
-- is left, 'e' for those that are there and have ended, 'l' for those that are not there. First of
-- all the position of the last block.
local found = { call('HGET', META, 'pos') or '0' }
for i = 1, #ARGV, 2 do
  local id = ARGV[i + 1]
  if call('HEXISTS', BASE .. 'n', id) == 1 then
    found[#found + 1] = 'p'
  elseif is_told(ARGV[i], id) then
    found[#found + 1] = 'e'
  else
    found[#found + 1] = 'l'
  end
end
return found
