"""What the Redis server does for the engine ``redis``, in one step each: one script with a function for each call.

Keys, for a queue named ``jobs``: the streams ``jobs``, ``{jobs}:suspects`` (what was delivered so often that it is
received alone) and ``{jobs}:dead``, the sorted set ``{jobs}:delayed``, the sets ``{jobs}:seen:…`` of known ids, and
``{jobs}:checked``, which lets one process at a time look for leases that have run out. ``{jobs}:sure:…`` is there as
long as nobody has taken a delivery from that consumer: it need not look whether what it settles is still its own.

An entry of a stream has the fields meta (time, headers as JSON, and id: a line each, since each field costs time) and
body; and attempt, if it was delivered as another entry before.
The pending entries of the group ``asyncpc`` are the deliveries: their owner, the age of their lease, and how often each
was delivered. So a message has been delivered as often as its field and its pending entry tell together.
"""

from __future__ import annotations

from typing import Final

from ..broker import SUSPECT_AFTER

__all__ = ["AT_ONCE", "GROUP", "SCRIPT"]

GROUP: Final = "asyncpc"
"""The name of the consumer group."""

AT_ONCE: Final = 500
"""Messages of one call: Lua unpacks some thousand values at most, and the server does nothing else meanwhile."""

SCRIPT: Final = (
    """
local READY, SUSPECTS, DELAYED, DEAD, SEEN, CHECKED, SURE = unpack(KEYS)
local ME, LEASE = ARGV[2], tonumber(ARGV[3])
local GROUP, SUSPECT_AFTER, AT_ONCE = """
    f"'{GROUP}', {SUSPECT_AFTER}, {AT_ONCE}"
    """
local STREAMS = {READY, SUSPECTS}
local call, calls = redis.call, {}
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- one message ---------------------------------------------------------------------------------

local function named(flat)
  local found = {}
  for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
  return found
end

local function message_of(entry, fields)  -- only what we know: others may write into the stream too
  local found = named(fields)
  found.meta, found.body = found.meta or '\\n\\n' .. entry, found.body or ''
  local attempt = tostring(found.attempt)
  found.attempt = #attempt < 7 and attempt:match('^%d+$') and tonumber(attempt) or 0
  return found
end

local function message_at(stream, entry)
  local row = call('XRANGE', stream, entry, entry)[1]
  return row and message_of(entry, row[2])
end

local function put(one, attempt)
  local stream = attempt < SUSPECT_AFTER and READY or SUSPECTS
  call('XADD', stream, '*', 'meta', one.meta, 'body', one.body, 'attempt', attempt)
end

local function put_later(one, attempt, due, place)  -- the clock and the place keep the order of what is due at once
  local order = string.format('%010d%06d%06d', clock[1], clock[2], place)
  call('ZADD', DELAYED, due, order .. cmsgpack.pack({one.meta, one.body, attempt}))
end

local function forget(stream, entries)  -- in this order, which keeps the lag right that autoscalers read
  local count = 0
  for i = 1, #entries, AT_ONCE do
    local last = math.min(i + AT_ONCE - 1, #entries)
    count = count + call('XACK', stream, GROUP, unpack(entries, i, last))
    call('XDEL', stream, unpack(entries, i, last))
  end
  return count
end

local function group_of(stream)  -- pending, and the entry that was delivered last
  for _, flat in ipairs(call('XINFO', 'GROUPS', stream)) do
    local found = named(flat)
    if found.name == GROUP then return found.pending, found['last-delivered-id'] end
  end
  return 0, '0-0'
end

local function forget_consumer(stream, consumer)  -- but not with pending entries, which would be lost
  call('DEL', SURE .. consumer)
  if #call('XPENDING', stream, GROUP, '-', '+', 1, consumer) == 0 then
    call('XGROUP', 'DELCONSUMER', stream, GROUP, consumer)
  end
end

-- which of the deliveries named from ARGV[first] on, each by its entry and count, are still ours ---------------

local function ours(stream, first, step)
  local count, held, mine = (#ARGV - first + 1) / step, {}, {}
  if count > 1 then  -- most likely the oldest that we have
    for _, row in ipairs(call('XPENDING', stream, GROUP, '-', '+', count + 50, ME)) do held[row[1]] = row[4] end
  end
  for i = first, #ARGV, step do
    local entry, delivered = ARGV[i], held[ARGV[i]]
    if delivered == nil then
      local row = call('XPENDING', stream, GROUP, entry, entry, 1, ME)[1]
      delivered = row and row[4]
    end
    if delivered == tonumber(ARGV[i + 1]) then
      mine[#mine + 1] = entry
      held[entry] = false
    end
  end
  return mine
end

local function arguments_of(first, step)
  local found = {}
  for i = first, #ARGV, step do found[ARGV[i]] = i end
  return found
end

-- the calls -----------------------------------------------------------------------------------

function calls.open()
  for _, stream in ipairs(STREAMS) do
    local made = redis.pcall('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
    if made.err and not made.err:find('BUSYGROUP') then return made end
    for _, flat in ipairs(call('XINFO', 'CONSUMERS', stream, GROUP)) do  -- of processes that were killed
      local found = named(flat)
      if found.pending == 0 and found.idle > 3600 * 1000 then forget_consumer(stream, found.name) end
    end
  end
  call('SET', SURE .. ME, 1)
  return redis.status_reply('OK')
end

function calls.close()  -- consumers
  for i = 4, #ARGV do
    for _, stream in ipairs(STREAMS) do forget_consumer(stream, ARGV[i]) end
  end
  return redis.status_reply('OK')
end

function calls.publish()  -- seconds; then id, delay, meta and body of each
  local remember, known, ids = tonumber(ARGV[4]), {}, {}
  local slot = remember > 0 and math.floor(clock[1] / remember) or 0
  local current, older = SEEN .. slot, SEEN .. slot - 1
  if remember > 0 then
    for i = 5, #ARGV, 4 do ids[#ids + 1] = ARGV[i] end
    for _, seen in ipairs({current, older}) do
      if call('EXISTS', seen) == 1 then
        for i, is_known in ipairs(call('SMISMEMBER', seen, unpack(ids))) do
          if is_known == 1 then known[ids[i]] = true end
        end
      end
    end
  end
  for i = 5, #ARGV, 4 do
    local id = ARGV[i]
    if not known[id] then
      known[id] = remember > 0
      if ARGV[i + 1] == '0' then
        call('XADD', READY, '*', 'meta', ARGV[i + 2], 'body', ARGV[i + 3])
      else
        put_later({meta = ARGV[i + 2], body = ARGV[i + 3]}, 0, now + ARGV[i + 1], i)
      end
    end
  end
  if remember > 0 then  -- last: an id that was remembered without its message would lose it
    call('SADD', current, unpack(ids))
    call('EXPIRE', current, 3 * remember)
    call('UNLINK', SEEN .. slot - 2)  -- an expiry would free it all at once, while everybody waits
  end
  return redis.status_reply('OK')
end

local function promote()
  local due = call('ZRANGEBYSCORE', DELAYED, '-inf', now, 'LIMIT', 0, AT_ONCE)
  for _, member in ipairs(due) do
    local fields = cmsgpack.unpack(member:sub(23))
    put({meta = fields[1], body = fields[2]}, fields[3])
    call('ZREM', DELAYED, member)
  end
  return #due == AT_ONCE
end

local function take_over(limit, taken)
  local owners = {}
  local rows = call('XPENDING', READY, GROUP, 'IDLE', LEASE, '-', '+', limit)
  for _, row in ipairs(rows) do
    local entry, delivered = row[1], row[4]
    local one = message_at(READY, entry)
    owners[row[2]] = true
    if one and one.attempt + delivered < SUSPECT_AFTER then
      taken[#taken + 1] = {1, entry, delivered + 1, call('XCLAIM', READY, GROUP, ME, 0, entry)[1][2]}
    else
      if one then put(one, one.attempt + delivered) end
      forget(READY, {entry})
    end
  end
  for owner in pairs(owners) do forget_consumer(READY, owner) end
  return #rows == limit
end

local function take_suspect(taken)
  local row = call('XPENDING', SUSPECTS, GROUP, 'IDLE', LEASE, '-', '+', 1)[1]
  if row and message_at(SUSPECTS, row[1]) then
    taken[#taken + 1] = {2, row[1], row[4] + 1, call('XCLAIM', SUSPECTS, GROUP, ME, 0, row[1])[1][2]}
    forget_consumer(SUSPECTS, row[2])
  elseif row then
    forget(SUSPECTS, {row[1]})
  else
    local new = call('XREADGROUP', 'GROUP', GROUP, ME, 'COUNT', 1, 'STREAMS', SUSPECTS, '>')
    if new then taken[#taken + 1] = {2, new[1][2][1][1], 1, new[1][2][1][2]} end
  end
end

function calls.tend()  -- limit, suspects
  local limit, taken, is_more = tonumber(ARGV[4]), {}, false
  -- To look walks over all pending entries, 0.1 us each: one process a second, and never more than 1 % of the time.
  local checked = redis.pcall('SET', CHECKED, ME, 'NX', 'PX', math.max(1000, math.floor(group_of(READY) / 100)))
  if not (checked and checked.err) then  -- in a full memory only what makes room goes on
    is_more = promote()
    if checked and take_over(limit, taken) then
      call('DEL', CHECKED)
      is_more = true
    end
  end
  if ARGV[5] ~= '0' and #taken < limit then take_suspect(taken) end
  local next_due = call('ZRANGE', DELAYED, 0, 0, 'WITHSCORES')[2]
  local pause = is_more and 0 or next_due and math.max(0, next_due - now) or -1
  return {taken, math.min(pause, 1000000000), call('XLEN', SUSPECTS) > group_of(SUSPECTS) and 1 or 0}
end

function calls.ack()  -- stream; then entry and count of each
  local stream = STREAMS[tonumber(ARGV[4])]
  return forget(stream, ours(stream, 5, 2))
end

function calls.extend()  -- stream; then entry and count of each
  local stream = STREAMS[tonumber(ARGV[4])]
  local mine = ours(stream, 5, 2)
  if #mine == 0 then return mine end
  mine[#mine + 1] = 'JUSTID'  -- else it counts as a delivery
  return call('XCLAIM', stream, GROUP, ME, 0, unpack(mine))
end

function calls.release()  -- stream, delay, what an attempt counts; then entry and count of each
  local stream, delay, counted = STREAMS[tonumber(ARGV[4])], tonumber(ARGV[5]), tonumber(ARGV[6])
  local mine, arguments = ours(stream, 7, 2), arguments_of(7, 2)
  for place, entry in ipairs(mine) do
    local one = message_at(stream, entry)
    if one then
      local attempt = one.attempt + ARGV[arguments[entry] + 1] - 1 + counted
      if delay > 0 then put_later(one, attempt, now + delay, place) else put(one, attempt) end
    end
  end
  return forget(stream, mine)
end

function calls.bury()  -- stream; then entry, count and failure of each
  local stream = STREAMS[tonumber(ARGV[4])]
  local mine, arguments = ours(stream, 5, 3), arguments_of(5, 3)
  for _, entry in ipairs(mine) do
    local one, i = message_at(stream, entry), arguments[entry]
    if one then
      call('XADD', DEAD, '*', 'meta', one.meta, 'body', one.body,
        'attempt', one.attempt + ARGV[i + 1], 'failure', ARGV[i + 2])
    end
  end
  return forget(stream, mine)
end

function calls.dead()  -- beginning, limit
  return call('XRANGE', DEAD, ARGV[4], '+', 'COUNT', ARGV[5])
end

function calls.requeue()  -- entries
  local count = 0
  for i = 4, #ARGV do
    local one = message_at(DEAD, ARGV[i])
    if one then
      put(one, 0)
      count = count + call('XDEL', DEAD, ARGV[i])
    end
  end
  return count
end

function calls.peek()  -- limit
  local found = {}
  for _, stream in ipairs(STREAMS) do
    local _, last = group_of(stream)
    for _, row in ipairs(call('XRANGE', stream, '(' .. last, '+', 'COUNT', math.max(1, ARGV[4] - #found))) do
      found[#found + 1] = row
    end
  end
  return found
end

function calls.depth()
  local ready, pending = 0, 0
  for _, stream in ipairs(STREAMS) do
    local held = group_of(stream)
    ready, pending = ready + math.max(0, call('XLEN', stream) - held), pending + held
  end
  local _, last = group_of(READY)
  local oldest = call('XRANGE', READY, '(' .. last, '+', 'COUNT', 1)[1]
  local due = call('ZCOUNT', DELAYED, '-inf', now)
  return {ready + due, pending, call('ZCARD', DELAYED) - due, call('XLEN', DEAD), oldest or false}
end

function calls.purge()  -- what was put at that time or before, in thousandths of a second; the first call says none
  local count, before = 0, tonumber(ARGV[4]) or now
  for _, stream in ipairs(STREAMS) do
    local _, last = group_of(stream)
    local overdue = call('XPENDING', stream, GROUP, 'IDLE', LEASE, '-', '+', AT_ONCE)
    for _, rows in ipairs({overdue, call('XRANGE', stream, '(' .. last, before, 'COUNT', AT_ONCE)}) do
      local entries = {}
      for i, row in ipairs(rows) do entries[i] = row[1] end
      forget(stream, entries)
      count = count + #entries
    end
    if call('XLEN', stream) == group_of(stream) then  -- else the lag is unknown until the next delivery
      local all = named(call('XINFO', 'STREAM', stream))
      redis.pcall('XGROUP', 'SETID', stream, GROUP, all['last-generated-id'], 'ENTRIESREAD', all['entries-added'] or 0)
    end
  end
  local delayed = call('ZRANGE', DELAYED, 0, AT_ONCE - 1)
  if #delayed > 0 then call('ZREM', DELAYED, unpack(delayed)) end
  return {count + #delayed, before}
end

function calls.purge_dead()
  local count = call('XLEN', DEAD)
  call('UNLINK', DEAD)
  return count
end

return calls[ARGV[1]]()
"""
)
