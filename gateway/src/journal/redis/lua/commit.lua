
-- One commit: blocks for the log, and everything they change. All checks stand before the first
-- write, since a script that fails half way is not taken back.
local P = cmsgpack.unpack(ARGV[1])

local BOOKS = {
  'accepted', 'f0', 'f1', 'f2', 'f3', 'f4', 'f5', 'dead',
  'r0', 'r1', 'r2', 'r3', 'r4', 'r5', 'discarded', 'pending', 'timers', 'bytes',
}

local function answer(first, counts)
  return { first, call('HMGET', META, unpack(BOOKS)), counts }
end

-- Without a number, the caller knows whether it happened.
local seen = P.s > 0 and call('HGET', BASE .. 'writers', P.w)
if seen then
  local seq, first = string.match(seen, '^(%d+) %d+ (%d+)$')
  if tonumber(seq) == P.s then
    -- Written again: WAIT and WAITAOF prove what their connection wrote, and nothing it did not.
    call('HSET', BASE .. 'writers', P.w, seen)
    return answer(first, {})
  elseif tonumber(seq) > P.s then
    return redis.error_reply('STALE a later request of this writer was answered')
  end
end
if P.e and not is_owner(P.e) then
  return redis.error_reply(FENCED)
end
local taken = P.tk or {}
for i = 1, #taken, 2 do
  local token, till = string.match(call('HGET', BASE .. 'taken', taken[i]) or '', '^(%S+) (%d+)$')
  if token ~= taken[i + 1] or tonumber(till) <= P.t then
    return redis.error_reply('FENCED the lease ran out')
  end
end
for _, delivery in ipairs(P.dk or {}) do
  if call('HEXISTS', BASE .. 'd', delivery) == 0 then
    return redis.error_reply('FENCED the dead letter is gone')
  end
end
local again = P.rk or {}
for i = 1, #again, 2 do
  if (call('HGET', BASE .. 're', again[i]) or '') ~= again[i + 1] then
    return redis.error_reply('FENCED it was sent again meanwhile')
  end
end
-- One request for each key is stored, though its caller was told nothing and asked again. What comes
-- with records has no number: their own script is repeated until it is known; and what an
-- outbox found missing was answered, whoever has its key by now.
local used = {}
for i = 1, P.s > 0 and not P.ag and #(P.k or {}) or 0, 3 do
  local old = call('GETRANGE', BASE .. 'k:' .. P.k[i], 0, 23)
  -- By the clock of the nodes: Redis may keep it a little longer.
  if #old == 24 and P.t - struct.unpack('>I8', old, 17) <= P.k[i + 1] and #used < 64 then
    used[#used + 1] = (i - 1) / 3
  end
end
if #used > 0 then
  return redis.error_reply('KEYUSED ' .. table.concat(used, ' '))
end

-- The last positions have their marks beside them: to read a block for its own takes long.
local RING = 64
local mark = P.w .. ':' .. P.s .. ':' .. decimal(P.t)
local at = call('HMGET', META, 'pos', 'gone', 'held', 'mk' .. (P.hw or 0) % RING)
if at[3] then
  return redis.error_reply('BUSY the journal is being moved or backed up')
end
if P.hw then
  local is_same = tonumber(at[1] or '0') >= P.hw
  if is_same and P.hm then
    local place, seen = string.match(at[4] or '', '^(%d+) (.*)$')
    if tonumber(place or '0') ~= P.hw then
      seen = mark_of(decimal(P.hw))
    end
    -- Of a block that is gone nothing is settled any more.
    is_same = seen == '' or seen == P.hm
  end
  if not is_same then
    return redis.error_reply('SHORTER the log is not the one that was read')
  end
end
for _, id in ipairs(P.ob or {}) do
  if call('HEXISTS', BASE .. 'n', id) == 1 then
    return redis.error_reply('FENCED the notification is there already')
  end
end
for i = 1, #(P.ag or {}), 2 do
  if is_told(P.ag[i], P.ag[i + 1]) then
    return redis.error_reply('FENCED the notification is there already')
  end
end
local pos, gone = tonumber(at[1] or '0'), tonumber(at[2] or '0')
local first, eight = decimal(pos + 1), {}

for i, block in ipairs(P.b or {}) do
  pos = pos + 1
  eight[i] = big(pos)
  local id, bytes = decimal(pos), ARGV[1 + i]
  local entry = { 'b', bytes, 't', P.t, 'w', mark }
  if block[3] ~= '' then
    table.insert(entry, 'x')
    table.insert(entry, block[3])
  end
  if i == 1 and P.z then
    table.insert(entry, 'z')
    table.insert(entry, P.z)
  end
  call('XADD', LOG, id .. '-0', unpack(entry))
  call('HINCRBY', META, 'stored', #bytes)
  if block[2] == 1 then
    call('HSET', BASE .. 'later', id, block[1])
  elseif block[1] > 0 then
    call('HSET', BASE .. 'left', id, block[1])
    -- `left` is the truth; without a group it is made again from it.
    pcall('XCLAIM', LOG, 'dispatch', 'owner', 0, id .. '-0', 'FORCE', 'JUSTID')
  end
end
if #(P.b or {}) > 0 then
  call('HSET', META, 'pos', decimal(pos), 'mk' .. pos % RING, decimal(pos) .. ' ' .. mark)
end

-- Adds members that all have the score 0, as many at once as Lua's stack takes; answers how many
-- are new.
local function add(key, members)
  local count = 0
  for from = 1, #members, 500 do
    local args = {}
    for i = from, math.min(from + 499, #members) do
      args[#args + 1] = 0
      args[#args + 1] = members[i]
    end
    count = count + call('ZADD', key, unpack(args))
  end
  return count
end

-- block, head, tail: head .. position of the block .. tail
local function placed(rows)
  local members = {}
  for i = 1, #rows, 3 do
    members[#members + 1] = rows[i + 1] .. eight[rows[i]] .. rows[i + 2]
  end
  return members
end

for i = 1, #(P.wh or {}), 3 do
  local key, told, rows = BASE .. 'w:' .. P.wh[i], P.wh[i + 2], {}
  for j = 1, #told, 2 do
    rows[#rows + 1] = eight[told[j]] .. struct.pack('>I4', #told[j + 1] / 20) .. told[j + 1]
  end
  call('APPEND', key, table.concat(rows))
  -- Never earlier than for what it told of before.
  local keep = P.keep + P.wh[i + 1]
  call('PEXPIRE', key, keep, 'NX')
  call('PEXPIRE', key, keep, 'GT')
end
for i = 1, #(P.li or {}), 2 do
  add(BASE .. 'l:' .. P.li[i], placed(P.li[i + 1]))
end
if P.ch then
  add(BASE .. 'chg', placed(P.ch))
end
for i = 1, #(P.ti or {}), 3 do
  local org, rows = P.ti[i], P.ti[i + 2]
  local key = BASE .. 't:' .. org
  for j = 1, #rows, 3 do
    call('ZADD', key, rows[j + 1], eight[rows[j]] .. rows[j + 2])
  end
  call('ZADD', BASE .. 'alarm', 'LT', P.ti[i + 1], org)
end
for i = 1, #(P.k or {}), 3 do
  call('SET', BASE .. 'k:' .. P.k[i], P.k[i + 2], 'PX', P.k[i + 1])
end

local function finish(at)
  local id = decimal(at)
  if at <= gone and call('HEXISTS', BASE .. 'left', id) + call('HEXISTS', BASE .. 'later', id) == 0 then
    local entry = call('XRANGE', LOG, id .. '-0', id .. '-0')[1]
    if entry then
      retire(at, entry)
    end
  end
end

-- Of what keeps a block beside entries that are due, some is over.
local function release(at, count)
  local id = decimal(at)
  if call('HINCRBY', BASE .. 'later', id, -count) <= 0 then
    call('HDEL', BASE .. 'later', id)
    finish(at)
  end
end

for i = 1, #(P.dn or {}), 3 do
  local at, places = P.dn[i], P.dn[i + 2]
  local id = decimal(at)
  local before = tonumber(call('HGET', BASE .. 'left', id) or '0')
  if before > P.dn[i + 1] then
    call('HSET', BASE .. 'left', id, before - P.dn[i + 1])
    add(BASE .. 'done', places)
  elseif before > 0 then
    call('HDEL', BASE .. 'left', id)
    call('ZREMRANGEBYLEX', BASE .. 'done', '[' .. big(at), '(' .. big(at + 1))
    pcall('XACK', LOG, 'dispatch', id .. '-0')
    finish(at)
  end
end
local has_taken = P.dt and call('HLEN', BASE .. 'taken') > 0
for i = 1, #(P.dt or {}), 3 do
  local org, at, member = P.dt[i], P.dt[i + 1], P.dt[i + 2]
  local key = BASE .. 't:' .. org
  if call('ZREM', key, member) == 1 then
    if call('EXISTS', key) == 0 then
      call('ZREM', BASE .. 'alarm', org)
    end
    release(at, 1)
  end
  if has_taken then
    call('HDEL', BASE .. 'taken', string.sub(member, 1, 12))
  end
end
if P.pa then
  -- A block that tells of an entry's progress, of its plan most of all, stays as long as the entry.
  for i, row in ipairs(P.pa) do
    P.pa[i] = row .. eight[1]
  end
  local count = add(BASE .. 'part', P.pa)
  if count > 0 then
    call('HINCRBY', BASE .. 'later', first, count)
  end
end
for _, place in ipairs(P.pd or {}) do
  local low, high = '[' .. place, '[' .. place .. string.rep('\255', 25)
  local kept = {}
  for _, row in ipairs(call('ZRANGEBYLEX', BASE .. 'part', low, high)) do
    if #row == 36 then
      local at = struct.unpack('>I8', row, 29)
      kept[at] = (kept[at] or 0) + 1
    end
  end
  call('ZREMRANGEBYLEX', BASE .. 'part', low, high)
  for at, count in pairs(kept) do
    release(at, count)
  end
end
for _, place in ipairs(P.cd or {}) do
  call('ZREM', BASE .. 'chg', place)
end
for i = 1, #(P.oc or {}), 2 do
  local key = BASE .. 'o:' .. P.oc[i]
  call('ZADD', key, 0, big(P.t) .. eight[1] .. P.oc[i + 1])
  call('PEXPIRE', key, P.keep)
end

local function bury(delivery, org)
  local old = call('HGET', BASE .. 'd', delivery)
  if old then
    local row = string.sub(old, 1, 12) .. delivery
    call('HDEL', BASE .. 'd', delivery)
    call('ZREM', BASE .. 'da', row)
    call('ZREM', BASE .. 'd:' .. org, row)
  end
end

for i = 1, #(P.am or {}), 3 do
  bury(P.am[i], P.am[i + 1])
  if P.am[i + 2] == 1 then
    call('HSET', BASE .. 're', P.am[i], first)
  end
end
for i = 1, #(P.de or {}), 3 do
  local delivery, org = P.de[i], P.de[i + 1]
  bury(delivery, org)
  local place = eight[1] .. struct.pack('>I4', (i - 1) / 3)
  call('HSET', BASE .. 'd', delivery, place .. P.de[i + 2])
  call('ZADD', BASE .. 'da', 0, place .. delivery)
  call('ZADD', BASE .. 'd:' .. org, 0, place .. delivery)
end
for _, id in ipairs(P.ca or {}) do
  call('ZADD', BASE .. 'x', P.t, id)
end

for _, id in ipairs(P.ob or {}) do
  call('HSET', BASE .. 'n', id, 1)
end
local is_tracked = P.nt and call('EXISTS', BASE .. 'n') == 1
for i = 1, is_tracked and #P.nt or 0, 2 do
  local left = call('HGET', BASE .. 'n', P.nt[i])
  if left and left + P.nt[i + 1] > 0 then
    call('HSET', BASE .. 'n', P.nt[i], string.format('%.0f', left + P.nt[i + 1]))
  elseif left then
    call('HDEL', BASE .. 'n', P.nt[i])
  end
end
for i = 1, #(P.m or {}), 2 do
  call('HINCRBY', META, P.m[i], P.m[i + 1])
end
local counts = {}
for i = 1, #(P.c or {}), 4 do
  local org = P.c[i]
  local p, t, b = string.match(call('HGET', BASE .. 'c', org) or '0 0 0', '^(%S+) (%S+) (%S+)$')
  p, t, b = p + P.c[i + 1], t + P.c[i + 2], b + P.c[i + 3]
  local sum = string.format('%.0f %.0f %.0f', p, t, b)
  if p > 0 then
    call('HSET', BASE .. 'c', org, sum)
  else
    call('HDEL', BASE .. 'c', org)
  end
  counts[#counts + 1] = org
  counts[#counts + 1] = sum
end
if P.s > 0 then
  call('HSET', BASE .. 'writers', P.w, P.s .. ' ' .. P.t .. ' ' .. first)
end
if P.o and is_owner(P.o) then
  -- The owner knows what it wrote: its reader need not be told.
  pcall('XGROUP', 'SETID', LOG, 'dispatch', decimal(pos) .. '-0')
end
return answer(first, counts)
