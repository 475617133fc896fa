-- A Wireshark dissector for what ScaleSocket's WebSockets carry:
--
--   moo           the packets of the sandbox game (net/sandbox_packets.py), with every field by its name
--   scalesocket   JSON messages with routing fields (`_from`, `_to` ...), and gwsocket's header
--
--   wireshark -X lua_script:net/scalesocket.lua play.pcapng
--   tshark -X lua_script:net/scalesocket.lua -r play.pcapng -Y 'moo.player.sid == 3'
--
-- Wireshark does not load Lua scripts as root. To have it always, put this file into the folder
-- that Help > About > Folders calls "Personal Lua Plugins".
--
-- A message gets here in one of three ways: its subprotocol is `moo.v1`; it came through the port
-- of the preference; or it looks so much like one of ours that it can be nothing else.

local MAX_DEPTH = 32 -- of lists in lists
local MAX_ANGLE = 2 * math.pi
local SHOWN_ROWS = 6 -- in the info column

local set_plugin_info = set_plugin_info or function() end
set_plugin_info({ version = "0.1.0", description = "ScaleSocket", repository = "net/" })

-- ==== 1. The protocol ====================================================================
-- `>` goes to the server, `<` to the client, `=` is a row of a list. Then come the code and the
-- name, and the arguments with what they may be: numbers from..to, an angle, a text of so many
-- characters, a flag; `?` or null, `*` a list of them; rows flat in one list `[]`, one row as a
-- list `()` or as a map `{}`. The tests hold this table to net/sandbox_packets.py.

local PROTOCOL = [[
> sp Spawn profile:Profile{}
> 33 Move angle:angle?
> rmd StopMove
> 2 Aim angle:angle
> c Attack active:flag angle:angle?
> 7 AutoAttack
> 5 SelectItem id:0..255
> 6 Upgrade id:0..255
> 13c Store buy:flag id:0..255 kind:0..255
> ch Chat text:text60
> pp Ping
> 14 MapPing
> 8 ClanCreate name:text16
> 9 ClanLeave
> 10 ClanJoin name:text16
> 11 ClanAccept sid:0..4294967295 accepted:flag
> 12 ClanKick sid:0..4294967295
< io-init Hello id:0..4294967295
< id Init world:0..65535 view:0..65535 tick_rate:0..255 player_scale:0..65535 speed:0..65535 arc:angle resources:text16* items:ItemRow[]
< d Disconnect reason:text123
< 1 Spawned sid:0..4294967295
< 2 PlayerAdd player:PlayerInfo() is_self:flag
< 4 PlayerRemove sid:0..4294967295
< 33 Players rows:PlayerRow[]
< 5 Leaderboard rows:ScoreRow[]
< 6 Objects rows:ObjectRow[]
< 7 Swing sid:0..4294967295 hit:flag index:0..255
< 8 ObjectHit dir:angle sid:0..4294967295
< 9 ResourceCount name:text16 value:0..4294967295 show:flag
< h Health sid:0..4294967295 value:0..4294967295
< 11 Death
< 12 ObjectRemove sid:0..4294967295
< 13 ObjectsRemove owner:0..4294967295
< 14 ItemCount item:0..255 count:0..255
< 15 Age xp:0..4294967295 max_xp:0..4294967295 age:0..255
< 16 Upgrades points:0..255 age:0..255
< 17 Items ids:0..255* weapons:flag
< ch Said sid:0..4294967295 text:text123
< mm Minimap rows:MapRow[]
< pp Pong
< 20 ShutdownNotice countdown:0..4294967295
= Profile name:text16 skin:0..7
= ItemRow id:0..255 name:text16 kind:text16 scale:0..65535 reach:0..65535 cooldown:0..4294967295 power:0..4294967295 gather:0..255 health:0..4294967295 limit:0..255 wood:0..4294967295 food:0..4294967295 stone:0..4294967295 gold:0..4294967295
= PlayerInfo id:0..4294967295 sid:0..4294967295 name:text16 x:0..65535 y:0..65535 dir:angle health:0..4294967295 max_health:0..4294967295 scale:0..65535 skin:0..255
= PlayerRow sid:0..4294967295 x:0..65535 y:0..65535 dir:angle build:0..255? weapon:0..255 variant:0..255 team:text16? leader:0..255 skin:0..255 tail:0..255 icon:0..255 z:0..255
= ScoreRow sid:0..4294967295 name:text16 score:0..4294967295
= ObjectRow sid:0..4294967295 x:0..65535 y:0..65535 dir:angle scale:0..65535 resource:0..255? type:0..255? owner:0..4294967295
= MapRow sid:0..4294967295 x:0..65535 y:0..65535
]]

-- What stands behind a packet's name in the info column; without a line here, its arguments do.
local PHRASES = {
  Spawn = "as {profile}",
  Move = "{angle}",
  Aim = "{angle}",
  Attack = "pressed={active} {angle}",
  SelectItem = "item {id}",
  Upgrade = "to item {id}",
  Chat = "{text}",
  ClanCreate = "{name}",
  ClanJoin = "{name}",
  ClanKick = "#{sid}",
  Hello = "client {id}",
  Init = "world {world}x{world}, {tick_rate} ticks/s",
  Disconnect = "{reason}",
  Spawned = "as #{sid}",
  PlayerAdd = "{player}",
  PlayerRemove = "#{sid}",
  Players = "{rows}",
  Leaderboard = "{rows}",
  Objects = "{rows}",
  Swing = "#{sid} hit={hit}",
  ObjectHit = "#{sid}",
  ResourceCount = "{name} {value}",
  Health = "#{sid} {value}",
  ObjectRemove = "#{sid}",
  ObjectsRemove = "of #{owner}",
  ItemCount = "item {item}: {count}",
  Age = "{age} ({xp}/{max_xp})",
  Said = "#{sid}: {text}",
  Minimap = "{rows}",
  ShutdownNotice = "in {countdown} s",
  Profile = "{name}",
  ItemRow = "{name}",
  PlayerInfo = "#{sid} {name} ({x},{y})",
  PlayerRow = "#{sid} ({x},{y})",
  ScoreRow = "{name} {score}",
  ObjectRow = "#{sid} ({x},{y})",
  MapRow = "#{sid} ({x},{y})",
}

local function snake(name)
  return (name:gsub("(%l)(%u)", "%1_%2"):lower())
end

-- Reads what an argument may be.
local function parse_kind(text)
  local kind = { text = text }
  local base, suffix = text:match("^([^?*]+)([?*]?)$")
  kind.null, kind.many = suffix == "?", suffix == "*"
  local low, high = base:match("^(%d+)%.%.(%d+)$")
  local row, shape = base:match("^(%u%a*)(%p%p)$")
  if low then
    kind.base, kind.low, kind.high = "number", tonumber(low), tonumber(high)
  elseif row then
    kind.base, kind.row, kind.shape = "rows", row, shape
  elseif base:match("^text") then
    kind.base, kind.most = "text", tonumber(base:sub(5))
  elseif base == "flag" then
    kind.base, kind.low, kind.high = "number", 0, 1
  else
    kind.base = "angle"
  end
  return kind
end

local FIELD_TYPES = { number = ProtoField.uint32, angle = ProtoField.double, text = ProtoField.string }

local packets = { [">"] = {}, ["<"] = {} } -- by direction and code
local rows = {} -- by name
local fields = {} -- by filter name

local function parse_columns(text, prefix)
  local columns = {}
  for name, kind_text in text:gmatch("([%a_]+):(%S+)") do
    local column = { name = name, kind = parse_kind(kind_text) }
    local make_field = FIELD_TYPES[column.kind.base]
    if make_field then
      local filter = "moo." .. prefix .. "." .. name
      fields[filter] = fields[filter] or make_field(filter, name)
      column.field = fields[filter]
    end
    columns[#columns + 1] = column
  end
  return columns
end

for line in PROTOCOL:gmatch("[^\n]+") do
  local mark, rest = line:match("^([><=]) (.*)$")
  if mark == "=" then
    local name = rest:match("^%a+")
    local prefix = snake((name:gsub("Row$", ""):gsub("Info$", "")))
    rows[name] = { name = name, columns = parse_columns(rest, prefix) }
  else
    local code, name = rest:match("^(%S+) (%a+)")
    local columns = parse_columns(rest, snake(name))
    packets[mark][code] = { name = name, columns = columns }
  end
end

-- ==== 2. msgpack =========================================================================
-- A value becomes {kind, value or items, at, size}: where it stands is needed to show it.

local SIZED = { -- formats with a length after the first byte
  [0xc4] = { "binary", 1 },
  [0xc5] = { "binary", 2 },
  [0xc6] = { "binary", 4 },
  [0xc7] = { "extension", 1 },
  [0xc8] = { "extension", 2 },
  [0xc9] = { "extension", 4 },
  [0xd9] = { "text", 1 },
  [0xda] = { "text", 2 },
  [0xdb] = { "text", 4 },
  [0xdc] = { "array", 2 },
  [0xdd] = { "array", 4 },
  [0xde] = { "map", 2 },
  [0xdf] = { "map", 4 },
}

local NUMBERS = { -- and those that are nothing but a number
  [0xca] = { "float", 4 },
  [0xcb] = { "float", 8 },
  [0xcc] = { "unsigned", 1 },
  [0xcd] = { "unsigned", 2 },
  [0xce] = { "unsigned", 4 },
  [0xcf] = { "unsigned", 8 },
  [0xd0] = { "signed", 1 },
  [0xd1] = { "signed", 2 },
  [0xd2] = { "signed", 4 },
  [0xd3] = { "signed", 8 },
}

-- What the first byte says: kind, how many bytes of length or number follow, or the length itself.
local function read_format(byte)
  if byte < 0x80 then
    return "small", 0, byte
  elseif byte < 0x90 then
    return "map", 0, byte - 0x80
  elseif byte < 0xa0 then
    return "array", 0, byte - 0x90
  elseif byte < 0xc0 then
    return "text", 0, byte - 0xa0
  elseif byte >= 0xe0 then
    return "small", 0, byte - 0x100
  elseif byte == 0xc0 then
    return "null", 0
  elseif byte == 0xc2 or byte == 0xc3 then
    return "boolean", 0, byte - 0xc2
  elseif byte >= 0xd4 and byte <= 0xd8 then
    return "extension", 0, 2 ^ (byte - 0xd4)
  end
  local format = SIZED[byte] or NUMBERS[byte] or {}
  return format[1], format[2]
end

local function read_number(range, kind)
  local wide = range:len() == 8
  if kind == "float" then
    return range:float()
  elseif kind == "signed" then
    return wide and range:int64():tonumber() or range:int()
  end
  return wide and range:uint64():tonumber() or range:uint()
end

local decode -- forward: lists hold values

local function decode_items(tvb, node, count, depth)
  node.items = {}
  local at = node.at + node.size
  for _ = 1, count do
    local item, reason = decode(tvb, at, depth + 1)
    if not item then
      return nil, reason
    end
    node.items[#node.items + 1] = item
    at = item.at + item.size
  end
  node.size = at - node.at
  return node
end

-- Returns the value that begins at an offset, or nil and why there is none.
decode = function(tvb, at, depth)
  if at >= tvb:len() then
    return nil, "it breaks off"
  elseif depth > MAX_DEPTH then
    return nil, "it is nested too deeply"
  end
  local byte = tvb(at, 1):uint()
  local kind, extra, length = read_format(byte)
  if not kind then
    return nil, string.format("byte 0x%02x begins no value", byte)
  end
  local node = { kind = kind, at = at, size = 1 + extra }
  local left = tvb:len() - at - node.size
  if left < 0 then
    return nil, "it breaks off"
  end
  if NUMBERS[byte] then
    node.kind, node.value = "number", read_number(tvb(at + 1, extra), kind)
    return node
  elseif kind == "small" then
    node.kind, node.value = "number", length
    return node
  elseif kind == "null" or kind == "boolean" then
    node.value = length
    return node
  end
  length = length or tvb(at + 1, extra):uint()
  if kind == "array" then
    return decode_items(tvb, node, length, depth)
  elseif kind == "map" then
    return decode_items(tvb, node, 2 * length, depth)
  end
  length = kind == "extension" and length + 1 or length -- with its type
  if length > left then
    return nil, "it breaks off"
  end
  if kind ~= "extension" then
    node.value = length > 0 and tvb(at + node.size, length):raw() or ""
  end
  node.size = node.size + length
  return node
end

-- Returns the one value that all of the bytes are, or nil and why they are none.
local function decode_all(tvb)
  local node, reason = decode(tvb, 0, 0)
  if node and node.size < tvb:len() then
    return nil, string.format("%d bytes follow it", tvb:len() - node.size)
  end
  return node, reason
end

-- ==== 3. Values in words =================================================================

-- Whether bytes above 127 are whole characters of UTF-8.
local function is_utf8(bytes)
  local at = 1
  while at <= #bytes do
    local first = bytes:byte(at)
    local size = first >= 0xf0 and 4 or first >= 0xe0 and 3 or 2
    if first < 0xc2 or first > 0xf4 or not bytes:find("^[\128-\191]+", at + 1) then
      return false
    end
    local _, last = bytes:find("^[\128-\191]+", at + 1)
    if last < at + size - 1 then
      return false
    end
    at = at + size
  end
  return true
end

local TRICKS = { -- in UTF-8: control characters, and those that turn a text's direction around
  "%c",
  "\194[\128-\159]", -- U+0080 to U+009F
  "\216\156", -- U+061C
  "\226\128[\142\143\168-\174]", -- U+200E, U+200F, U+2028 to U+202E
  "\226\129[\166-\169]", -- U+2066 to U+2069
}

-- Returns a text without anything that a line of output could stumble over.
local function printable(text)
  if #text > 60 then
    text = text:sub(1, 57):gsub("[\192-\255][\128-\191]*$", "") .. "..."
  end
  text = text:gsub("[\128-\255]+", function(bytes)
    return not is_utf8(bytes) and ("."):rep(#bytes) or nil
  end)
  for _, trick in ipairs(TRICKS) do
    text = text:gsub(trick, ".")
  end
  return text
end

local function show_number(value)
  return value == math.floor(value) and string.format("%.0f", value) or string.format("%.2f", value)
end

-- Shows any value, in case it is not what is wanted.
local function show(node)
  if node.kind == "number" then
    return show_number(node.value)
  elseif node.kind == "text" then
    return '"' .. printable(node.value) .. '"'
  elseif node.kind == "boolean" then
    return node.value == 1 and "true" or "false"
  elseif node.kind == "binary" then
    return string.format("%d bytes", #node.value)
  elseif node.items then
    return string.format("%s of %d", node.kind, node.kind == "map" and #node.items / 2 or #node.items)
  end
  return node.kind
end

local function count_characters(text)
  local _, continued = text:gsub("[\128-\191]", "")
  return #text - continued
end

-- Says what is wrong with a single value; nil if nothing is.
local function find_fault(kind, node)
  if node.kind == "null" and kind.null then
    return nil
  elseif kind.base == "text" then
    local fits = node.kind == "text" and count_characters(node.value) <= kind.most
    return not fits and "a text of up to " .. kind.most .. " characters is wanted" or nil
  elseif kind.base == "angle" then
    local fits = node.kind == "number" and math.abs(node.value) <= MAX_ANGLE
    return not fits and "an angle from -2 pi to 2 pi is wanted" or nil
  end
  local value = node.kind == "number" and node.value
  local fits = value and value >= kind.low and value <= kind.high and value == math.floor(value)
  return not fits and string.format("%.0f to %.0f is wanted", kind.low, kind.high) or nil
end

-- ==== 4. The tree of a packet ============================================================

local moo = Proto("moo", "ScaleSocket sandbox")
local code_field = ProtoField.string("moo.code", "Code")
local name_field = ProtoField.string("moo.name", "Packet")
local sid_field = ProtoField.uint32("moo.sid", "Any sid")
moo.fields = { code_field, name_field, sid_field }
for _, field in pairs(fields) do
  table.insert(moo.fields, field)
end
local malformed = ProtoExpert.new(
  "moo.malformed", "Malformed packet", expert.group.MALFORMED, expert.severity.ERROR
)
moo.experts = { malformed }

local add_columns -- forward: arguments hold rows, which hold arguments

local function complain(item, reason)
  item:add_proto_expert_info(malformed, reason)
end

local function add_value(tvb, tree, column, node)
  local range = tvb(node.at, node.size)
  local fault = find_fault(column.kind, node)
  if fault then
    complain(tree:add(range, column.name .. ": " .. show(node)), column.name .. ": " .. fault)
  elseif node.kind == "null" then
    tree:add(range, column.name .. ": null")
  elseif node.kind == "text" then
    local text = #node.value > 0 and tvb(node.at + node.size - #node.value, #node.value)
    tree:add(column.field, range, text and text:string(ENC_UTF_8) or "")
  else
    tree:add(column.field, range, node.value)
    if column.name == "sid" then
      tree:add(sid_field, range, node.value):set_hidden()
    end
  end
  return show(node)
end

-- Puts a map's values into the order of the columns; nil if its keys are others.
local function order(row, map)
  local by_name, nodes = {}, {}
  for index = 1, #map.items, 2 do
    local key = map.items[index]
    by_name[key.kind == "text" and key.value or 0] = map.items[index + 1]
  end
  for _, column in ipairs(row.columns) do
    nodes[#nodes + 1] = by_name[column.name]
  end
  return #nodes == #row.columns and #map.items == 2 * #nodes and nodes or nil
end

local function add_row(tvb, tree, row, node, nodes)
  local first, last = nodes[1] or node, nodes[#nodes] or node
  if node.kind == "map" then
    first, last = node, node
  end
  local item = tree:add(tvb(first.at, last.at + last.size - first.at), row.name)
  local text = add_columns(tvb, item, row, nodes)
  item:append_text(" " .. text)
  return text
end

local function add_rows(tvb, tree, column, node)
  local row, shape = rows[column.kind.row], column.kind.shape
  local wanted = shape == "{}" and "map" or "array"
  local item = tree:add(tvb(node.at, node.size), column.name)
  local nodes = node.kind == wanted and (shape == "{}" and order(row, node) or node.items)
  local width = #row.columns
  if node.kind ~= wanted or (shape == "{}" and nodes == node.items) then
    complain(item, column.name .. " is " .. show(node) .. "; a " .. wanted .. " of " .. row.name .. " is wanted")
    return show(node)
  elseif shape ~= "[]" then
    return add_row(tvb, item, row, node, nodes)
  elseif #nodes % width ~= 0 then
    complain(item, string.format("%d values; rows of %d are wanted", #nodes, width))
  end
  local texts = {}
  for start = 1, #nodes - width + 1, width do
    local text = add_row(tvb, item, row, node, { table.unpack(nodes, start, start + width - 1) })
    texts[#texts + 1] = #texts < SHOWN_ROWS and text or nil
  end
  local count = math.floor(#nodes / width)
  item:append_text(string.format(": %d", count))
  local more = count > #texts and string.format(" and %d more", count - #texts) or ""
  return table.concat(texts, ", ") .. more
end

local function add_list(tvb, tree, column, node)
  local item = tree:add(tvb(node.at, node.size), column.name)
  if node.kind ~= "array" then
    complain(item, column.name .. " is " .. show(node) .. "; a list is wanted")
    return show(node)
  end
  local texts = {}
  for index, value in ipairs(node.items) do
    texts[index] = add_value(tvb, item, column, value)
  end
  return table.concat(texts, " ")
end

-- Adds arguments, or a row's columns; returns what to say of them.
add_columns = function(tvb, tree, owner, nodes)
  local texts, pairs_of_texts = {}, {}
  for index, column in ipairs(owner.columns) do
    local node = nodes[index]
    if node then
      local add = column.kind.base == "rows" and add_rows or column.kind.many and add_list or add_value
      texts[column.name] = add(tvb, tree, column, node)
      table.insert(pairs_of_texts, column.name .. "=" .. texts[column.name])
    end
  end
  if #nodes ~= #owner.columns then
    complain(tree, string.format("%s has %d values; %d are wanted", owner.name, #nodes, #owner.columns))
  end
  local phrase = PHRASES[owner.name] or table.concat(pairs_of_texts, " ")
  return (phrase:gsub("{([%a_]+)}", function(name)
    return texts[name] or "?"
  end))
end

-- ==== 5. The sandbox =====================================================================

local masked = Field.new("websocket.mask")

-- Only a client masks, so that says which way a message went.
local function find_direction()
  local found = { masked() }
  return #found > 0 and found[#found].value and ">" or "<"
end

-- One segment may hold many messages: each adds its line, and none wipes out another's.
local function tell(pinfo, protocol, text)
  pinfo.cols.protocol:set(protocol)
  pinfo.cols.info:set(text .. "  ")
  pinfo.cols.info:fence()
end

-- Returns the packet's description and its arguments, or nil and what is wrong.
local function match_packet(value, direction)
  local items = value.kind == "array" and value.items or {}
  if #items ~= 2 or items[1].kind ~= "text" or items[2].kind ~= "array" then
    return nil, "it is " .. show(value) .. "; [code, [argument, ...]] is wanted"
  end
  local packet = packets[direction][items[1].value]
  if not packet then
    return nil, "there is no packet " .. show(items[1]) .. " in this direction"
  end
  return packet, items[2]
end

local function fail(pinfo, tree, direction, reason)
  complain(tree, reason)
  tell(pinfo, "MOO", direction .. " malformed: " .. reason)
end

function moo.dissector(tvb, pinfo, tree)
  if tvb:len() == 0 then
    return 0
  end
  local direction = find_direction()
  local item = tree:add(moo, tvb())
  local text = tvb():raw()
  if text:match('^{"_seat":') then -- agreed upon in text, before all packets (--resume)
    item:append_text(", seat")
    tell(pinfo, "MOO", direction .. " " .. printable(text))
    return tvb:len()
  end
  local value, reason = decode_all(tvb)
  if not value then
    fail(pinfo, item, direction, "not one msgpack value: " .. reason)
    return tvb:len()
  end
  local packet, arguments = match_packet(value, direction)
  if not packet then
    fail(pinfo, item, direction, arguments)
    return tvb:len()
  end
  local code = value.items[1]
  item:add(code_field, tvb(code.at, code.size), code.value)
  item:add(name_field, tvb(code.at, code.size), packet.name):set_generated()
  local arguments_text = add_columns(tvb, item, packet, arguments.items)
  local told = (packet.name .. " " .. arguments_text):gsub(" $", "")
  item:append_text(", " .. told)
  tell(pinfo, "MOO", direction .. " " .. told)
  return tvb:len()
end

-- ==== 6. JSON ============================================================================
-- Finds the members of the outermost object, and where they stand, without reading the rest.

local function skip_space(text, at)
  return text:find("[^ \t\r\n]", at) or #text + 1
end

-- Returns where a string ends that begins at a quotation mark.
local function find_string_end(text, at)
  local from = at + 1
  while true do
    local stop = text:find('["\\]', from)
    if not stop or text:sub(stop, stop) == '"' then
      return stop
    end
    from = stop + 2
  end
end

-- Returns where a value ends; nil if it breaks off.
local function find_value_end(text, at)
  local depth = 0
  while at and at <= #text do
    local start = text:sub(at, at)
    local last = at
    if start == '"' then
      last = find_string_end(text, at)
    elseif start:match("[%[{]") then
      depth = depth + 1
    elseif start:match("[%]}]") then
      depth = depth - 1
    elseif start:match("[%w+-]") then
      last = select(2, text:find("^[%w.+-]+", at))
    elseif depth == 0 then
      return nil
    end
    if not last or depth < 0 then
      return nil
    elseif depth == 0 then
      return last
    end
    at = skip_space(text, last + 1)
  end
  return nil
end

-- Returns {name = {first, last}} for each member, or nil if the text is no object.
local function find_members(text)
  local at = skip_space(text, 1)
  if text:sub(at, at) ~= "{" then
    return nil
  end
  local members = {}
  at = skip_space(text, at + 1)
  while text:sub(at, at) == '"' do
    local name_end = find_string_end(text, at)
    local colon = name_end and skip_space(text, name_end + 1)
    local first = colon and text:sub(colon, colon) == ":" and skip_space(text, colon + 1)
    local last = first and find_value_end(text, first)
    if not last then
      return nil
    end
    members[text:sub(at + 1, name_end - 1)] = { first, last }
    at = skip_space(text, last + 1)
    if text:sub(at, at) == "," then
      at = skip_space(text, at + 1)
    end
  end
  local over = text:sub(at, at) == "}" and skip_space(text, at + 1) > #text
  return over and members or nil
end

-- ==== 7. Framing =========================================================================

local scalesocket = Proto("scalesocket", "ScaleSocket")
local f = {
  framing = ProtoField.string("scalesocket.framing", "Framing"),
  type = ProtoField.string("scalesocket.type", "Type"),
  from = ProtoField.uint32("scalesocket.from", "From client"),
  to = ProtoField.uint32("scalesocket.to", "To client"),
  except = ProtoField.uint32("scalesocket.except", "Not to client"),
  id = ProtoField.uint32("scalesocket.id", "Client (as ScaleSocket 0.1 had it)"),
  meta = ProtoField.string("scalesocket.meta", "Metadata of the room"),
  cache = ProtoField.string("scalesocket.cache", "Kept for newcomers"),
  close = ProtoField.string("scalesocket.close", "Closes its recipients"),
  length = ProtoField.uint32("scalesocket.length", "Length"),
  payload = ProtoField.string("scalesocket.payload", "Payload"),
}
scalesocket.fields = f
local odd = ProtoExpert.new(
  "scalesocket.malformed", "Malformed routing", expert.group.MALFORMED, expert.severity.WARN
)
scalesocket.experts = { odd }

local ROUTING = { -- member, what it is called here, and whether it holds IDs
  { "t", "type" },
  { "_from", "from", true },
  { "_to", "to", true },
  { "_except", "except", true },
  { "id", "id", true },
  { "_meta", "meta" },
  { "_cache", "cache" },
  { "_close", "close" },
}

local function add_ids(tvb, tree, name, text, first)
  local inner = text:match("^%[(.*)%]$") or text
  local rest = inner
  if name ~= "id" then -- some languages write 1.0 or "1" for the ID 1
    inner = inner:gsub("(%d)(%.0+)%f[%D]", function(digit, none) return digit .. (" "):rep(#none) end)
    rest = inner:gsub('"%d+"', "")
  end
  for offset, id in inner:gmatch("()(%d+)") do
    local number = tonumber(id)
    if number <= 0xffffffff then
      tree:add(f[name], tvb(first + offset - (text:sub(1, 1) == "[" and 0 or 1), #id), number)
    end
  end
  rest = rest:gsub("%d+", ""):gsub("[ \t\r\n,]", "")
  if rest ~= "" and text ~= "null" then
    tree:add(tvb(first, #text), name):add_proto_expert_info(odd, name .. " is no client's ID, nor a list of IDs")
  end
end

local function add_json(tvb, pinfo, tree, text, members)
  local item = tree:add(scalesocket, tvb())
  item:add(f.framing, tvb(), "json"):set_generated()
  local words = {}
  for _, routing in ipairs(ROUTING) do
    local name, place = routing[2], members[routing[1]]
    if place then
      local value = text:sub(place[1], place[2])
      table.insert(words, name .. "=" .. printable(value:gsub('^"(.*)"$', "%1")))
      if routing[3] then
        add_ids(tvb, item, name, value, place[1] - 1)
      else
        item:add(f[name], tvb(place[1] - 1, #value), (value:gsub('^"(.*)"$', "%1")))
      end
    end
  end
  local told = table.concat(words, " ")
  item:append_text(", JSON " .. told)
  tell(pinfo, "ScaleSocket", find_direction() .. " JSON " .. told)
end

local function looks_like_json(text)
  local members = find_members(text)
  for _, routing in ipairs(ROUTING) do
    if members and routing[1] ~= "id" and members[routing[1]] then -- many things have an `id`
      return members
    end
  end
  return nil
end

local function looks_like_gwsocket(tvb)
  if tvb:len() < 12 then
    return false
  end
  local kind = tvb(4, 4):uint()
  return (kind == 1 or kind == 2) and tvb(8, 4):uint() == tvb:len() - 12
end

local function add_gwsocket(tvb, pinfo, tree)
  local direction = find_direction()
  local kind = tvb(4, 4):uint() == 1 and "text" or "binary"
  local item = tree:add(scalesocket, tvb(), "ScaleSocket, gwsocket")
  item:add(f.framing, tvb(0, 12), "gwsocket"):set_generated()
  item:add(direction == ">" and f.from or f.to, tvb(0, 4))
  item:add(f.type, tvb(4, 4), kind)
  item:add(f.length, tvb(8, 4))
  if tvb:len() > 12 and kind == "text" then
    item:add(f.payload, tvb(12), tvb(12):string(ENC_UTF_8))
  end
  local client = tvb(0, 4):uint()
  local who = direction == "<" and client == 0 and "everyone" or "client " .. show_number(client)
  tell(pinfo, "ScaleSocket", string.format("%s gwsocket %s of %d, %s", direction, kind, tvb:len() - 12, who))
end

local function looks_like_moo(tvb)
  local value = decode_all(tvb)
  return value and match_packet(value, find_direction()) ~= nil
end

-- Dissects a message that is one of ours for certain; returns whether it is.
local function recognize(tvb, pinfo, tree)
  if tvb:len() == 0 then
    return false
  end
  local text = tvb():raw()
  local members = looks_like_json(text)
  if members then
    add_json(tvb, pinfo, tree, text, members)
  elseif looks_like_gwsocket(tvb) then
    add_gwsocket(tvb, pinfo, tree)
  elseif looks_like_moo(tvb) then
    moo.dissector(tvb, pinfo, tree)
  else
    return false
  end
  return true
end

-- On our port everything is ours, if only as a text or as bytes.
function scalesocket.dissector(tvb, pinfo, tree)
  if tvb:len() > 0 and not recognize(tvb, pinfo, tree) then
    local item = tree:add(scalesocket, tvb())
    item:add(f.payload, tvb(), tvb():string(ENC_UTF_8))
    tell(pinfo, "ScaleSocket", find_direction() .. " " .. printable(tvb():raw()))
  end
  return tvb:len()
end

-- ==== 8. Where messages come from ========================================================

scalesocket.prefs.port = Pref.uint("WebSocket port", 9000, "All messages on this port are ScaleSocket's; 0: none")

local port_table = DissectorTable.get("ws.port")
local port = scalesocket.prefs.port
if port > 0 then
  port_table:add(port, scalesocket)
end

function scalesocket.prefs_changed()
  if port ~= scalesocket.prefs.port then
    if port > 0 then
      port_table:remove(port, scalesocket)
    end
    port = scalesocket.prefs.port
    if port > 0 then
      port_table:add(port, scalesocket)
    end
  end
end

DissectorTable.get("ws.protocol"):add("moo.v1", moo)
scalesocket:register_heuristic("ws", recognize)
