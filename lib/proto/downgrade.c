#include "lib/proto/downgrade.h"

#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>

#include "lib/proto/outcome.h"

struct version {
    uint64_t major, minor, patch;
};

/* A number without leading zeros, as semantic versions have it. */
static bool take_number(struct bytes *text, uint64_t *ret)
{
    uint64_t v = 0;
    size_t n = 0;

    while (n < text->len && text->data[n] >= '0' && text->data[n] <= '9' && n < 9)
        v = v * 10 + (uint64_t)(text->data[n++] - '0');
    if (n == 0 || (n > 1 && text->data[0] == '0'))
        return false;
    text->data += n;
    text->len -= n;
    *ret = v;
    return true;
}

static bool take_dot(struct bytes *text)
{
    if (text->len == 0 || text->data[0] != '.')
        return false;
    text->data++;
    text->len--;
    return true;
}

/* X.Y or X.Y.Z; behind the third number a pre-release or build may follow. */
static bool parse(struct bytes text, struct version *ret)
{
    *ret = (struct version){0};
    if (!take_number(&text, &ret->major) || !take_dot(&text) || !take_number(&text, &ret->minor))
        return false;
    if (text.len == 0)
        return true;
    return take_dot(&text) && take_number(&text, &ret->patch) &&
           (text.len == 0 || (text.len > 1 && (text.data[0] == '-' || text.data[0] == '+')));
}

int downgrade_target(struct bytes text, char ret[DOWNGRADE_TEXT_BYTES])
{
    struct version v;

    if (!parse(text, &v))
        return OUT_WRONG_DOWNGRADE_VERSION_FORMAT;
    snprintf(ret, DOWNGRADE_TEXT_BYTES, "%" PRIu64 ".%" PRIu64 ".0", v.major, v.minor);
    return OUT_OK;
}

int downgrade_check(struct bytes cluster_version, bool under_way, struct bytes target)
{
    struct version now, to;

    if (!parse(cluster_version, &now))
        return OUT_CLUSTER_VERSION_UNAVAILABLE;
    if (!parse(target, &to))
        return OUT_WRONG_DOWNGRADE_VERSION_FORMAT;
    if (to.major != now.major || to.minor + 1 != now.minor || to.patch != 0)
        return OUT_INVALID_DOWNGRADE_TARGET;
    return under_way ? OUT_DOWNGRADE_IN_PROGRESS : OUT_OK;
}

struct bytes downgrade_shown(struct bytes cluster_version)
{
    size_t dots = 0;

    for (size_t i = 0; i < cluster_version.len; i++)
        if (cluster_version.data[i] == '.' && ++dots == 2)
            return bytes_of(cluster_version.data, i);
    return cluster_version;
}
