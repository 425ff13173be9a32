"""The part of the script for the engine ``redis`` that hands messages out, takes them in and settles deliveries.

It stands behind what ``script`` begins with, and uses its functions.
"""

from __future__ import annotations

from typing import Final

__all__ = ["CALLS"]

CALLS: Final = """
local function is_full(answer)  -- says the server, also of what is there already
  return answer.err and answer.err:find('maxmemory')
end

local function has_group(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  for _, flat in ipairs(groups.err and {} or groups) do
    if named(flat).name == GROUP then return true end
  end
  return false
end

function calls.open()
  for _, stream in ipairs(STREAMS) do
    local made = redis.pcall('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
    local is_there = made.err and (made.err:find('BUSYGROUP') or is_full(made) and has_group(stream))
    if made.err and not is_there then return made end
    for _, flat in ipairs(call('XINFO', 'CONSUMERS', stream, GROUP)) do  -- of processes that were killed
      local found = named(flat)
      if found.pending == 0 and found.idle > 3600 * 1000 then forget_consumer(stream, found.name) end
    end
  end
  local sure = redis.pcall('SET', SURE .. ME, 1)
  if sure.err and not is_full(sure) then return sure end  -- without it, it looks at what it settles
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
"""
