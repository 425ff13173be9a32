"""The part of the script for the engine ``redis`` that looks at a queue, and cleans it up, without receiving.

It stands behind what ``script`` begins with, and uses its functions.
"""

from __future__ import annotations

from typing import Final

__all__ = ["LOOKS"]

LOOKS: Final = """
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
"""
