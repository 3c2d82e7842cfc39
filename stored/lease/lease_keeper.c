#include "stored/lease/lease_keeper.h"

#include <assert.h>
#include <stdlib.h>

#include "lib/util/sim_bug.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/wire.h"

enum state { UNSETTLED, STATED, SETTLED, CLEARING, ENDING };

/* ---- the heap ---- */

static bool is_before(const struct lease *a, const struct lease *b)
{
    if (a->local.due_ms != b->local.due_ms)
        return a->local.due_ms < b->local.due_ms;
    return a->id < b->id;
}

static void place(struct lease_keeper *k, size_t pos, struct lease *l)
{
    k->heap[pos] = l;
    l->local.heap_pos = pos;
}

static void sift_up(struct lease_keeper *k, size_t pos, struct lease *l)
{
    for (; pos > 1 && is_before(l, k->heap[pos / 2]); pos /= 2)
        place(k, pos, k->heap[pos / 2]);
    place(k, pos, l);
}

static void sift_down(struct lease_keeper *k, size_t pos, struct lease *l)
{
    for (;;) {
        size_t child = pos * 2;

        if (child < k->heap_count && is_before(k->heap[child + 1], k->heap[child]))
            child++;
        if (child > k->heap_count || !is_before(k->heap[child], l))
            break;
        place(k, pos, k->heap[child]);
        pos = child;
    }
    place(k, pos, l);
}

static void heap_remove(struct lease_keeper *k, struct lease *l)
{
    size_t pos = l->local.heap_pos;
    struct lease *last;

    if (pos == 0)
        return;
    assert(pos <= k->heap_count && k->heap[pos] == l);
    l->local.heap_pos = 0;
    last = k->heap[k->heap_count--];
    if (last == l)
        return;
    if (pos > 1 && is_before(last, k->heap[pos / 2]))
        sift_up(k, pos, last);
    else
        sift_down(k, pos, last);
}

static void heap_set(struct lease_keeper *k, struct lease *l, uint64_t due_ms)
{
    heap_remove(k, l);
    l->local.due_ms = due_ms;
    if (k->heap_count + 1 >= k->heap_cap) {
        k->heap_cap = k->heap_cap == 0 ? 64 : k->heap_cap * 2;
        k->heap = xreallocarray(k->heap, k->heap_cap, sizeof(struct lease *));
    }
    sift_up(k, ++k->heap_count, l);
}

/* ---- states ---- */

static void move(struct lease_keeper *k, struct lease *l, enum state to)
{
    struct list *lists[] = {&k->unsettled, &k->stated, NULL, NULL, &k->ending};

    if (l->local.state == ENDING)
        k->ending_count--;
    list_remove(&l->local.node);
    l->local.state = (uint8_t)to;
    if (lists[to] != NULL)
        list_push_back(lists[to], &l->local.node);
    if (to == ENDING)
        k->ending_count++;
}

uint64_t lease_keeper_now(const struct lease_keeper *k)
{
    return k->base_clock_ms + (k->clock_ms(k->user) - k->base_ms);
}

/* One more than needed: now is rounded down. */
static uint64_t due_after(uint64_t now_ms, const struct lease *l)
{
    return now_ms + (uint64_t)l->ttl * 1000 + 1;
}

static void renewed(struct lease_keeper *k, struct lease *l, uint64_t now_ms)
{
    l->local.renewed_ms = now_ms;
    heap_set(k, l, due_after(now_ms, l));
    move(k, l, UNSETTLED);
}

static void on_granted(void *user, struct lease *l)
{
    struct lease_keeper *k = user;

    renewed(k, l, lease_keeper_now(k));
}

static void on_removed(void *user, struct lease *l)
{
    struct lease_keeper *k = user;

    heap_remove(k, l);
    move(k, l, SETTLED); /* out of every list */
}

static void on_deadline_set(void *user, struct lease *l)
{
    struct lease_keeper *k = user;

    if (l->local.state == STATED && l->deadline_ms != 0)
        move(k, l, SETTLED);
    if (l->local.state != CLEARING || l->deadline_ms != 0)
        return;
    /* for the sake of a renewal that follows at once: the full time is its */
    l->local.renewed_ms = lease_keeper_now(k);
    move(k, l, UNSETTLED);
}

static const struct lease_observer observer = {
    .granted = on_granted, .deadline_set = on_deadline_set, .removed = on_removed};

/* ---- life ---- */

void lease_keeper_init(struct lease_keeper *k, uint64_t (*clock_ms)(void *user), void *user)
{
    *k = (struct lease_keeper){.clock_ms = clock_ms, .user = user};
    list_init(&k->unsettled);
    list_init(&k->stated);
    list_init(&k->ending);
}

void lease_keeper_fini(struct lease_keeper *k)
{
    lease_keeper_stop(k);
    free(k->heap);
    k->heap = NULL;
    k->heap_cap = 0;
}

void lease_keeper_start(struct lease_keeper *k, struct lease_table *table, uint64_t clock_ms)
{
    struct lease **list = lease_table_sorted(table);

    assert(k->table == NULL && table->observer == NULL);
    assert(clock_ms >= table->clock_ms);
    k->table = table;
    k->base_clock_ms = clock_ms;
    k->base_ms = k->told_ms = k->clock_ms(k->user);
    for (size_t i = 0; i < lease_table_count(table); i++) {
        struct lease *l = list[i];

        l->local = (struct lease_local){.state = UNSETTLED};
        list_init(&l->local.node);
        if (l->deadline_ms == 0 || SIM_BUG(LEASE_FULL_TTL)) {
            renewed(k, l, clock_ms);
            continue;
        }
        l->local.renewed_ms = clock_ms;
        heap_set(k, l, l->deadline_ms);
        move(k, l, SETTLED);
    }
    free(list);
    table->observer = &observer;
    table->observer_user = k;
}

void lease_keeper_stop(struct lease_keeper *k)
{
    if (k->table == NULL)
        return;
    for (size_t i = 1; i <= k->heap_count; i++)
        k->heap[i]->local.heap_pos = 0;
    k->heap_count = k->ending_count = 0;
    while (list_pop_front(&k->unsettled) != NULL || list_pop_front(&k->stated) != NULL ||
           list_pop_front(&k->ending) != NULL)
        ;
    k->table->observer = NULL;
    k->table->observer_user = NULL;
    k->table = NULL;
}

/* ---- renewals ---- */

enum lease_renewal lease_keeper_renew(struct lease_keeper *k, struct lease *l)
{
    uint64_t now = lease_keeper_now(k);

    if (l == NULL)
        return LEASE_GONE;
    switch ((enum state)l->local.state) {
    case ENDING:
        return LEASE_WAIT;
    case CLEARING:
        return l->local.asked_ms + LEASE_ASK_AGAIN_MS > now ? LEASE_WAIT : LEASE_MUST_CLEAR;
    case STATED:
    case SETTLED:
        if (SIM_BUG(LEASE_NO_CLEAR))
            break;
        return LEASE_MUST_CLEAR;
    case UNSETTLED:
        break;
    }
    renewed(k, l, now);
    return LEASE_RENEWED;
}

void lease_keeper_clear(struct lease_keeper *k, struct lease *l)
{
    l->local.asked_ms = lease_keeper_now(k);
    move(k, l, CLEARING);
}

int64_t lease_keeper_remaining(const struct lease_keeper *k, const struct lease *l)
{
    uint64_t now = lease_keeper_now(k);

    return l->local.due_ms > now ? (int64_t)((l->local.due_ms - now) / 1000) : 0;
}

/* ---- entries ---- */

static struct lease *first_of(struct list *list)
{
    return CONTAINER_OF(LIST_ENTRY(list->next, struct lease_local, node), struct lease, local);
}

static bool seems_lost(struct list *list, uint64_t now)
{
    return !list_empty(list) && first_of(list)->local.asked_ms + LEASE_ASK_AGAIN_MS <= now;
}

static size_t end(struct lease_keeper *k, struct lease *l, uint64_t now, struct buf *ids)
{
    l->local.asked_ms = now;
    move(k, l, ENDING);
    wire_put_i64(ids, l->id);
    return l->keys.count;
}

size_t lease_keeper_take_due(struct lease_keeper *k, struct buf *ids)
{
    uint64_t now = lease_keeper_now(k);
    size_t count = 0, keys = 0;

    for (; count < LEASE_EXPIRE_MAX && keys <= LEASE_EXPIRE_KEYS_MAX && seems_lost(&k->ending, now);
         count++)
        keys += end(k, first_of(&k->ending), now, ids);
    while (count < LEASE_EXPIRE_MAX && k->ending_count < LEASE_ENDING_MAX && k->heap_count > 0) {
        struct lease *l = k->heap[1];

        if (l->local.due_ms > now || (count > 0 && keys + l->keys.count > LEASE_EXPIRE_KEYS_MAX))
            break;
        heap_remove(k, l);
        keys += end(k, l, now, ids);
        count++;
    }
    return count;
}

static void state(struct lease_keeper *k, struct lease *l, uint64_t now, struct buf *deadlines)
{
    l->local.asked_ms = now;
    move(k, l, STATED);
    wire_put_i64(deadlines, l->id);
    wire_put_u64(deadlines, l->local.due_ms);
}

bool lease_keeper_take_clock(struct lease_keeper *k, struct buf *deadlines)
{
    uint64_t now = lease_keeper_now(k), ms = k->clock_ms(k->user);
    size_t count = 0;

    for (; count < LEASE_STATE_MAX && seems_lost(&k->stated, now); count++)
        state(k, first_of(&k->stated), now, deadlines);
    for (; count < LEASE_STATE_MAX && !list_empty(&k->unsettled); count++) {
        struct lease *l = first_of(&k->unsettled);

        if (l->local.renewed_ms + LEASE_SETTLE_MS > now)
            break;
        state(k, l, now, deadlines);
    }
    if (count == 0 && ms < k->told_ms + LEASE_CLOCK_MS)
        return false;
    k->told_ms = ms;
    return true;
}

static int cmp_ends(const void *a, const void *b)
{
    const struct lease *x = *(struct lease *const *)a, *y = *(struct lease *const *)b;

    return is_before(x, y) ? -1 : is_before(y, x);
}

struct lease **lease_keeper_sorted(const struct lease_keeper *k)
{
    struct lease **list = lease_table_sorted(k->table);

    qsort(list, lease_table_count(k->table), sizeof(struct lease *), cmp_ends);
    return list;
}
