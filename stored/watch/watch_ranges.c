#include "stored/watch/watch_ranges.h"

#include <assert.h>
#include <stdlib.h>
#include <xxhash.h>

#include "lib/util/xmalloc.h"

static uint64_t hash_of(struct bytes key)
{
    return XXH3_64bits(key.data, key.len);
}

static bool is_open(struct bytes range_end)
{
    return range_end.len == 1 && range_end.data[0] == 0;
}

/* The end of a true range; data NULL: none. */
static struct bytes end_of(const struct watch_range *range)
{
    return is_open(range->range_end) ? BYTES_EMPTY : range->range_end;
}

/* Ends: none is above all. */
static int cmp_ends(struct bytes a, struct bytes b)
{
    if (a.data == NULL || b.data == NULL)
        return (a.data == NULL) - (b.data == NULL);
    return bytes_cmp(a, b);
}

static int cmp_range(struct bytes key, struct bytes end, const struct watch_range *range)
{
    int r = bytes_cmp(key, range->key);

    return r != 0 ? r : cmp_ends(end, end_of(range));
}

bool watch_range_contains(const struct watch_range *range, struct bytes key)
{
    if (range->is_single)
        return bytes_eq(range->key, key);
    return bytes_cmp(key, range->key) >= 0 &&
           (is_open(range->range_end) || bytes_cmp(key, range->range_end) < 0);
}

void watch_ranges_init(struct watch_ranges *r)
{
    *r = (struct watch_ranges){.singles = HMAP_INIT, .seed = 2463534242U};
}

void watch_ranges_fini(struct watch_ranges *r)
{
    assert(r->count == 0);
    hmap_fini(&r->singles);
}

static uint32_t next_priority(struct watch_ranges *r)
{
    r->seed ^= r->seed << 13; /* xorshift32: any spread will do */
    r->seed ^= r->seed >> 17;
    r->seed ^= r->seed << 5;
    return r->seed;
}

static struct watch_range *range_new(struct watch_ranges *r, struct bytes key,
                                     struct bytes range_end)
{
    struct watch_range *n = xmalloc(sizeof(*n) + key.len + range_end.len);

    *n = (struct watch_range){.is_single = range_end.len == 0, .priority = next_priority(r)};
    memcpy(n->bytes, key.data, key.len);
    if (range_end.len > 0)
        memcpy(n->bytes + key.len, range_end.data, range_end.len);
    n->key = bytes_of(n->bytes, key.len);
    n->range_end = bytes_of(n->bytes + key.len, range_end.len);
    n->max_to = end_of(n);
    r->count++;
    return n;
}

static void update(struct watch_range *n)
{
    n->max_to = end_of(n);
    if (n->left != NULL && cmp_ends(n->left->max_to, n->max_to) > 0)
        n->max_to = n->left->max_to;
    if (n->right != NULL && cmp_ends(n->right->max_to, n->max_to) > 0)
        n->max_to = n->right->max_to;
}

static struct watch_range *rotate(struct watch_range *n, bool to_right)
{
    struct watch_range *top = to_right ? n->left : n->right;

    if (to_right) {
        n->left = top->right;
        top->right = n;
    } else {
        n->right = top->left;
        top->left = n;
    }
    update(n);
    update(top);
    return top;
}

static struct watch_range *insert(struct watch_range *at, struct watch_range *n)
{
    bool left;

    if (at == NULL)
        return n;
    left = cmp_range(n->key, end_of(n), at) < 0;
    if (left)
        at->left = insert(at->left, n);
    else
        at->right = insert(at->right, n);
    update(at);
    if ((left ? at->left : at->right)->priority > at->priority)
        return rotate(at, left);
    return at;
}

/* One tree of two, everything in `left` being below `right`. */
static struct watch_range *join(struct watch_range *left, struct watch_range *right)
{
    if (left == NULL || right == NULL)
        return left != NULL ? left : right;
    if (left->priority > right->priority) {
        left->right = join(left->right, right);
        update(left);
        return left;
    }
    right->left = join(left, right->left);
    update(right);
    return right;
}

static struct watch_range *erase(struct watch_range *at, const struct watch_range *n)
{
    assert(at != NULL);
    if (at == n)
        return join(at->left, at->right);
    if (cmp_range(n->key, end_of(n), at) < 0)
        at->left = erase(at->left, n);
    else
        at->right = erase(at->right, n);
    update(at);
    return at;
}

static struct watch_range *find(const struct watch_ranges *r, struct bytes key,
                                struct bytes range_end)
{
    struct bytes end = is_open(range_end) ? BYTES_EMPTY : range_end;
    struct watch_range *n;

    if (range_end.len == 0) {
        n = hmap_get(&r->singles, hash_of(key));
        while (n != NULL && !bytes_eq(n->key, key))
            n = n->left;
        return n;
    }
    n = r->root;
    while (n != NULL) {
        int c = cmp_range(key, end, n);

        if (c == 0)
            return n;
        n = c < 0 ? n->left : n->right;
    }
    return NULL;
}

struct watch_range *watch_ranges_get(struct watch_ranges *r, struct bytes key,
                                     struct bytes range_end)
{
    struct watch_range *n = find(r, key, range_end);

    if (n != NULL)
        return n;
    n = range_new(r, key, range_end);
    if (n->is_single)
        n->left = hmap_put(&r->singles, hash_of(key), n);
    else
        r->root = insert(r->root, n);
    return n;
}

static void remove_single(struct watch_ranges *r, struct watch_range *range)
{
    uint64_t hash = hash_of(range->key);
    struct watch_range *first = hmap_get(&r->singles, hash), **link = &first;

    while (*link != range)
        link = &(*link)->left;
    *link = range->left;
    if (first != NULL)
        hmap_put(&r->singles, hash, first);
    else
        hmap_remove(&r->singles, hash);
}

void watch_ranges_remove(struct watch_ranges *r, struct watch_range *range)
{
    if (range->is_single)
        remove_single(r, range);
    else
        r->root = erase(r->root, range);
    r->count--;
    free(range);
}

static void match(struct watch_range *n, struct bytes key, watch_ranges_found found, void *user)
{
    while (n != NULL && (n->max_to.data == NULL || bytes_cmp(key, n->max_to) < 0)) {
        match(n->left, key, found, user);
        if (bytes_cmp(key, n->key) < 0)
            return;
        if (is_open(n->range_end) || bytes_cmp(key, n->range_end) < 0)
            found(user, n);
        n = n->right;
    }
}

void watch_ranges_match(const struct watch_ranges *r, struct bytes key, watch_ranges_found found,
                        void *user)
{
    if (r->singles.count > 0) {
        struct watch_range *n = hmap_get(&r->singles, hash_of(key));

        for (; n != NULL; n = n->left) {
            if (bytes_eq(n->key, key)) {
                found(user, n);
                break;
            }
        }
    }
    match(r->root, key, found, user);
}
