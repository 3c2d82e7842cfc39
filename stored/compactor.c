#include "stored/compactor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/conf/conf.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

#define HOUR_NS UINT64_C(3600000000000)
enum { NOTES_PER_PERIOD = 10, NOTED_MAX = 1 << 20 };
#define REVISION_INTERVAL_NS (UINT64_C(300) * 1000000000)

static bool parse_whole(const char *text, int64_t *ret)
{
    char *end;
    long long v;

    errno = 0;
    v = strtoll(text, &end, 10);
    if (*text == '\0' || *end != '\0' || errno != 0 || v < 0 || strchr(" \t", *text) != NULL)
        return false;
    *ret = v;
    return true;
}

static uint64_t note_interval_ns(const struct compactor *c)
{
    return MAX(MIN(c->period_ns, HOUR_NS) / NOTES_PER_PERIOD, UINT64_C(1000000));
}

int compactor_init(struct compactor *c, const char *mode, const char *retention, uint64_t now_ns)
{
    bool by_revision = strcmp(mode, "revision") == 0;
    int64_t whole = 0;
    uint64_t ns = 0;
    bool is_whole = parse_whole(retention, &whole);

    *c = (struct compactor){.last_ns = now_ns};
    if (!by_revision && strcmp(mode, "periodic") != 0)
        return -EINVAL;
    if (*retention == '\0')
        return 0;
    if (!is_whole && conf_parse_duration(retention, &ns) != 0)
        return -EINVAL;
    if (by_revision) {
        c->keep_revisions = is_whole ? whole : (int64_t)ns;
        c->mode = c->keep_revisions > 0 ? COMPACTOR_REVISION : COMPACTOR_OFF;
        return 0;
    }
    if (is_whole && whole > INT64_MAX / (int64_t)HOUR_NS)
        return -EINVAL;
    c->period_ns = is_whole ? (uint64_t)whole * HOUR_NS : ns;
    if (c->period_ns == 0)
        return 0;
    c->mode = COMPACTOR_PERIODIC;
    c->wait_ns = c->period_ns;
    c->noted_max = (size_t)MIN(c->period_ns / note_interval_ns(c) + 1, (uint64_t)NOTED_MAX);
    c->noted = xcalloc(c->noted_max + 1, sizeof(*c->noted));
    return 0;
}

void compactor_fini(struct compactor *c)
{
    free(c->noted);
    *c = (struct compactor){0};
}

uint64_t compactor_interval_ns(const struct compactor *c)
{
    switch (c->mode) {
    case COMPACTOR_PERIODIC:
        return note_interval_ns(c);
    case COMPACTOR_REVISION:
        return REVISION_INTERVAL_NS;
    case COMPACTOR_OFF:
        break;
    }
    return 0;
}

static int64_t attempt(struct compactor *c, uint64_t now_ns, int64_t revision)
{
    c->asked_revision = revision;
    c->asked_ns = now_ns;
    return revision;
}

static int64_t tick_revision(struct compactor *c, uint64_t now_ns, int64_t revision,
                             bool is_leader)
{
    int64_t at = revision - c->keep_revisions;

    return is_leader && at > 0 && at != c->last_revision ? attempt(c, now_ns, at) : 0;
}

/* The oldest note is the revision one period ago, once there are enough of them. */
static int64_t tick_periodic(struct compactor *c, uint64_t now_ns, int64_t revision,
                             bool is_leader)
{
    bool first = c->noted_count == 0;
    int64_t at = first ? 0 : c->noted[0];

    c->noted[c->noted_count++] = revision;
    if (c->noted_count > c->noted_max)
        memmove(c->noted, c->noted + 1, --c->noted_count * sizeof(*c->noted));
    if (first || !is_leader || now_ns - c->last_ns < c->wait_ns || at == c->last_revision)
        return 0;
    c->wait_ns = MIN(c->period_ns, HOUR_NS);
    return attempt(c, now_ns, at);
}

int64_t compactor_tick(struct compactor *c, uint64_t now_ns, int64_t revision,
                       int64_t compact_revision, bool is_leader)
{
    if (c->asked_revision != 0 && compact_revision >= c->asked_revision) {
        c->last_ns = c->asked_ns;
        c->last_revision = c->asked_revision;
    }
    c->asked_revision = 0;
    if (c->mode == COMPACTOR_PERIODIC)
        return tick_periodic(c, now_ns, revision, is_leader);
    if (c->mode == COMPACTOR_REVISION)
        return tick_revision(c, now_ns, revision, is_leader);
    return 0;
}
