-- The guestbook: entries are a list in redis; written to the leader, read from a follower.
local redis = require "redis"
local guestbook = {}

local function connect(variable)
    local client = redis:new()
    client:set_timeout(2000)
    local ok, err = client:connect(os.getenv(variable), 6379)
    if not ok then
        ngx.status = 503
        ngx.say(os.getenv(variable), ": ", err)
        return ngx.exit(503)
    end
    return client
end

local function escape(text)
    return (text:gsub("[&<>\"]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }))
end

local function list()
    local client = connect("REDIS_FOLLOWER")
    local entries = client:lrange("guestbook", 0, 19)
    client:set_keepalive(10000, 16)
    return entries or {}
end

function guestbook.page()
    local rows = {}
    for _, entry in ipairs(list()) do
        rows[#rows + 1] = "<li>" .. escape(entry) .. "</li>"
    end
    local file = assert(io.open("/srv/guestbook/index.html"))
    local template = file:read("*a")
    file:close()
    local values = {
        entries = table.concat(rows, "\n"),
        version = os.getenv("GUESTBOOK_VERSION"),
        pod = os.getenv("POD_NAME") or "?",
    }
    ngx.print((template:gsub("{{(%w+)}}", values)))
end

function guestbook.entries()
    if ngx.req.get_method() == "POST" then
        ngx.req.read_body()
        local entry = ngx.req.get_post_args(4).entry
        if type(entry) ~= "string" or entry == "" or #entry > 200 then
            ngx.status = 400
            return ngx.say("entry: 1 to 200 characters")
        end
        local client = connect("REDIS_LEADER")
        local _, err = client:lpush("guestbook", entry)
        if err then
            ngx.status = 503
            return ngx.say(err)
        end
        client:ltrim("guestbook", 0, 99)
        client:set_keepalive(10000, 16)
        return ngx.redirect("/", 303)
    end
    ngx.header.content_type = "text/plain"
    for _, entry in ipairs(list()) do
        ngx.say(entry)
    end
end

-- Ready only when both stores answer, so that nobody is sent to a page that cannot be shown.
function guestbook.health()
    for _, variable in ipairs { "REDIS_LEADER", "REDIS_FOLLOWER" } do
        local client = connect(variable)
        if client:ping() ~= "PONG" then
            ngx.status = 503
            return ngx.say(variable, " does not answer")
        end
        client:set_keepalive(10000, 16)
    end
    ngx.say("ok")
end

return guestbook
