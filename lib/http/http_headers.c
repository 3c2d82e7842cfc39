/*
 * Names that belong to HTTP itself: reason phrases (HTTP/1.1 still writes them) and the header
 * fields the library writes on its own.
 */
#include "lib/http/http_internal.h"

#include <stdlib.h>

static const struct {
    int status;
    const char *text;
} status_texts[] = {
    {100, "Continue"},
    {200, "OK"},
    {201, "Created"},
    {202, "Accepted"},
    {204, "No Content"},
    {206, "Partial Content"},
    {301, "Moved Permanently"},
    {302, "Found"},
    {303, "See Other"},
    {304, "Not Modified"},
    {307, "Temporary Redirect"},
    {308, "Permanent Redirect"},
    {400, "Bad Request"},
    {401, "Unauthorized"},
    {403, "Forbidden"},
    {404, "Not Found"},
    {405, "Method Not Allowed"},
    {406, "Not Acceptable"},
    {408, "Request Timeout"},
    {409, "Conflict"},
    {410, "Gone"},
    {411, "Length Required"},
    {412, "Precondition Failed"},
    {413, "Request Entity Too Large"},
    {414, "Request URI Too Long"},
    {415, "Unsupported Media Type"},
    {417, "Expectation Failed"},
    {421, "Misdirected Request"},
    {429, "Too Many Requests"},
    {431, "Request Header Fields Too Large"},
    {500, "Internal Server Error"},
    {501, "Not Implemented"},
    {502, "Bad Gateway"},
    {503, "Service Unavailable"},
    {504, "Gateway Timeout"},
    {505, "HTTP Version Not Supported"},
};

const char *http_status_text(int status)
{
    for (size_t i = 0; i < ARRAY_LEN(status_texts); i++)
        if (status_texts[i].status == status)
            return status_texts[i].text;
    return "";
}

bool http_header_is_ours(struct bytes name)
{
    switch (name.len) {
    case 4:
        return memcmp(name.data, "date", 4) == 0;
    case 7:
        return memcmp(name.data, "upgrade", 7) == 0;
    case 10:
        return memcmp(name.data, "connection", 10) == 0 || memcmp(name.data, "keep-alive", 10) == 0;
    case 14:
        return memcmp(name.data, "content-length", 14) == 0;
    case 17:
        return memcmp(name.data, "transfer-encoding", 17) == 0;
    default:
        return false;
    }
}

/* RFC 9110 section 5.6.2 token, without upper case */
bool http_header_name_valid(struct bytes name)
{
    if (name.len == 0)
        return false;
    for (size_t i = 0; i < name.len; i++) {
        uint8_t c = name.data[i];

        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-')
            continue;
        if (c == '\0' || strchr("!#$%&'*+.^_`|~", c) == NULL)
            return false;
    }
    return true;
}

size_t http_pieces_len(const struct bytes *pieces, size_t count)
{
    size_t len = 0;

    for (size_t i = 0; i < count; i++)
        len += pieces[i].len;
    return len;
}

void http_pieces_copy(uint8_t *to, const struct bytes *pieces, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (pieces[i].len != 0)
            memcpy(to, pieces[i].data, pieces[i].len);
        to += pieces[i].len;
    }
}
