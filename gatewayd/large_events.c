/* See large_events.h. */
#include "gatewayd/large_events.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>

#include "lib/loop/loop.h"
#include "lib/util/list.h"
#include "lib/util/shared_bytes.h"
#include "lib/util/xmalloc.h"

enum { SWEEP_MS = 1000 };

/* Parts of one revision in the order they come in. */
struct sequence {
    struct list node; /* in all.sequences */
    int64_t revision;
    size_t place_count;
    struct shared_bytes **blocks;
    size_t count, cap;
};

struct large_events {
    struct list sequences;
    struct loop_timer *sweep; /* active while there is one */
};

struct large_place {
    struct large_events *all;
    int64_t revision;
    struct sequence *seq; /* NULL: no part yet */
    size_t count;         /* of its blocks are this watcher's */
};

static bool same(const struct shared_bytes *block, struct bytes part)
{
    return bytes_eq(shared_bytes_get(block), part);
}

static void sequence_free(struct sequence *seq)
{
    list_remove(&seq->node);
    for (size_t i = 0; i < seq->count; i++)
        shared_bytes_unref(seq->blocks[i]);
    free(seq->blocks);
    free(seq);
}

/* Nobody is to get it who has not got all, and no client is still to take any of it. */
static bool is_over(const struct sequence *seq)
{
    for (size_t i = 0; i < seq->count; i++) {
        if (seq->blocks[i]->refs > 1)
            return false;
    }
    return seq->place_count == 0;
}

static void on_sweep(void *user)
{
    struct large_events *all = user;

    LIST_FOREACH_SAFE(it, next, &all->sequences)
    {
        struct sequence *seq = LIST_ENTRY(it, struct sequence, node);

        if (is_over(seq))
            sequence_free(seq);
    }
    if (list_empty(&all->sequences))
        loop_timer_stop(all->sweep);
}

struct large_events *large_events_new(struct loop *loop)
{
    struct large_events *all = xcalloc(1, sizeof(*all));

    list_init(&all->sequences);
    all->sweep = loop_timer_new(loop, "large events", on_sweep, all);
    return all;
}

void large_events_free(struct large_events *all)
{
    if (all == NULL)
        return;
    while (!list_empty(&all->sequences)) {
        struct sequence *seq = LIST_ENTRY(all->sequences.next, struct sequence, node);

        assert(seq->place_count == 0);
        sequence_free(seq);
    }
    loop_timer_free(all->sweep);
    free(all);
}

size_t large_events_bytes(const struct large_events *all)
{
    size_t bytes = 0;

    LIST_FOREACH(it, &all->sequences)
    {
        const struct sequence *seq = LIST_ENTRY(it, struct sequence, node);

        for (size_t i = 0; i < seq->count; i++)
            bytes += seq->blocks[i]->len;
    }
    return bytes;
}

static void append(struct sequence *seq, struct shared_bytes *block)
{
    if (seq->count == seq->cap) {
        seq->cap = seq->cap * 2 + 8;
        seq->blocks = xreallocarray(seq->blocks, seq->cap, sizeof(struct shared_bytes *));
    }
    seq->blocks[seq->count++] = block;
}

static void leave(struct large_place *p)
{
    if (p->seq == NULL)
        return;
    p->seq->place_count--;
    if (is_over(p->seq))
        sequence_free(p->seq);
    p->seq = NULL;
}

static void enter(struct large_place *p, struct sequence *seq)
{
    seq->place_count++;
    leave(p);
    p->seq = seq;
}

struct large_place *large_place_new(struct large_events *all, int64_t revision)
{
    struct large_place *p = xcalloc(1, sizeof(*p));

    p->all = all;
    p->revision = revision;
    return p;
}

void large_place_free(struct large_place *p)
{
    if (p == NULL)
        return;
    leave(p);
    free(p);
}

/* One whose beginning is what the place has got and this part. */
static struct sequence *find(const struct large_place *p, struct bytes part)
{
    LIST_FOREACH(it, &p->all->sequences)
    {
        struct sequence *seq = LIST_ENTRY(it, struct sequence, node);
        size_t i = 0;

        if (seq->revision != p->revision || seq->count <= p->count)
            continue;
        while (i < p->count && same(seq->blocks[i], shared_bytes_get(p->seq->blocks[i])))
            i++;
        if (i == p->count && same(seq->blocks[i], part))
            return seq;
    }
    return NULL;
}

/* A new one that begins with what the place has got; a copy, as references tell what is in use. */
static struct sequence *branch(struct large_place *p)
{
    struct sequence *seq = xcalloc(1, sizeof(*seq));

    seq->revision = p->revision;
    list_push_back(&p->all->sequences, &seq->node);
    for (size_t i = 0; i < p->count; i++)
        append(seq, shared_bytes_new(shared_bytes_get(p->seq->blocks[i])));
    if (!loop_timer_active(p->all->sweep))
        loop_timer_start(p->all->sweep, SWEEP_MS, SWEEP_MS);
    return seq;
}

void large_place_add(struct large_place *p, struct bytes part)
{
    struct sequence *seq = p->seq;

    if (part.len == 0)
        return;
    if (seq == NULL || (p->count < seq->count && !same(seq->blocks[p->count], part))) {
        seq = find(p, part);
        enter(p, seq != NULL ? seq : branch(p));
        seq = p->seq;
    }
    if (p->count == seq->count)
        append(seq, shared_bytes_new(part));
    p->count++;
}

struct shared_bytes *const *large_place_blocks(const struct large_place *p, size_t *ret_count)
{
    *ret_count = p->count;
    return p->seq != NULL ? p->seq->blocks : NULL;
}
