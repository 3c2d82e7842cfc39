/*
 * The tree of kv_index.h. Leaves and inner nodes hold up to FANOUT slots and are linked (leaves).
 * A leaf that overflows at the right end of the tree is not halved: keys that arrive in order fill
 * leaves completely. Inner separators are own copies, cut to the shortest prefix that separates,
 * so removing an entry never touches them. A leaf that runs low joins a neighbour under the same
 * parent; inner nodes go when they are empty.
 */
#include "stored/kv/kv_index.h"

#include <assert.h>
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

enum {
    FANOUT = 64, /* one bit of `live` each */
    LEAF_LOW = 16,
    HEIGHT_MAX = 16, /* 32^16 keys do not exist */
};

struct kv_index_node {
    uint16_t count;
    bool is_leaf;
    uint32_t skip; /* bytes that all keys (inner: all separators but the first) share */
    uint64_t heads[FANOUT];
};

struct kv_index_leaf {
    struct kv_index_node node;
    uint64_t live; /* bit i: entries[i] is live */
    struct kv_index_leaf *prev, *next;
    struct kv_entry *entries[FANOUT];
};

struct separator {
    uint32_t len;
    uint8_t data[];
};

struct inner {
    struct kv_index_node node;
    struct separator *separators[FANOUT]; /* [0] unused; keys of child i are >= separators[i] */
    struct kv_index_node *children[FANOUT];
    uint64_t live_count[FANOUT];
    uint64_t live_bytes[FANOUT];
};

/* Where a descent went: inner nodes from the root, then the leaf. */
struct path {
    struct inner *inners[HEIGHT_MAX];
    unsigned int slots[HEIGHT_MAX];
    unsigned int depth;
    struct kv_index_leaf *leaf;
};

/* ---- keys ---- */

static uint64_t head_of(struct bytes key, size_t skip)
{
    uint64_t v = 0;

    if (key.len >= skip + 8) {
        memcpy(&v, key.data + skip, 8);
        return __builtin_bswap64(v);
    }
    for (size_t i = skip; i < skip + 8; i++)
        v = v << 8 | (i < key.len ? key.data[i] : 0);
    return v;
}

static size_t common_prefix(struct bytes a, struct bytes b)
{
    size_t n = MIN(a.len, b.len), i = 0;

    while (i < n && a.data[i] == b.data[i])
        i++;
    return i;
}

static struct bytes slot_key(const struct kv_index_node *n, unsigned int i)
{
    if (n->is_leaf)
        return kv_entry_key(((const struct kv_index_leaf *)n)->entries[i]);
    return bytes_of(((const struct inner *)n)->separators[i]->data,
                    ((const struct inner *)n)->separators[i]->len);
}

static void rebuild_heads(struct kv_index_node *n)
{
    unsigned int first = n->is_leaf ? 0 : 1;

    n->skip = 0;
    if (n->count <= first)
        return;
    n->skip = (uint32_t)common_prefix(slot_key(n, first), slot_key(n, n->count - 1u));
    for (unsigned int i = first; i < n->count; i++)
        n->heads[i] = head_of(slot_key(n, i), n->skip);
}

/* A slot was filled at i: keep the heads right with the least work. */
static void fix_head(struct kv_index_node *n, unsigned int i)
{
    unsigned int first = n->is_leaf ? 0 : 1;

    if (n->count == first + 1u || ((i == first || i == n->count - 1u) &&
                                   common_prefix(slot_key(n, first), slot_key(n, n->count - 1u)) <
                                       n->skip))
        rebuild_heads(n);
    else
        n->heads[i] = head_of(slot_key(n, i), n->skip);
}

/* First slot in [first, count) whose key is >= key. *ret_equal: it is the key. */
static unsigned int lower_bound(const struct kv_index_node *n, struct bytes key, bool *ret_equal)
{
    unsigned int first = n->is_leaf ? 0 : 1, from = first, to = n->count;
    uint64_t head;

    *ret_equal = false;
    if (from >= to)
        return from;
    if (n->skip > 0) {
        struct bytes some = slot_key(n, first);
        size_t len = MIN(key.len, n->skip);
        int r = memcmp(key.data, some.data, len);

        if (r < 0 || (r == 0 && key.len < n->skip))
            return from;
        if (r > 0)
            return to;
    }
    head = head_of(key, n->skip);
    while (from < to) {
        unsigned int mid = from + (to - from) / 2;
        int r;

        if (n->heads[mid] != head)
            r = n->heads[mid] < head ? -1 : 1;
        else
            r = bytes_cmp(slot_key(n, mid), key);
        if (r == 0) {
            *ret_equal = true;
            return mid;
        }
        if (r < 0)
            from = mid + 1;
        else
            to = mid;
    }
    return from;
}

/* The child that holds `key`, or would. */
static unsigned int child_slot(const struct inner *in, struct bytes key)
{
    bool equal;
    unsigned int i = lower_bound(&in->node, key, &equal);

    return equal ? i : i - 1;
}

/* ---- memory ---- */

static struct kv_index_leaf *leaf_new(struct kv_index *ix)
{
    struct kv_index_leaf *leaf = xcalloc(1, sizeof(*leaf));

    leaf->node.is_leaf = true;
    ix->memory_bytes += sizeof(*leaf);
    return leaf;
}

static struct inner *inner_new(struct kv_index *ix)
{
    ix->memory_bytes += sizeof(struct inner);
    return xcalloc(1, sizeof(struct inner));
}

static void free_node(struct kv_index *ix, struct kv_index_node *n)
{
    ix->memory_bytes -= n->is_leaf ? sizeof(struct kv_index_leaf) : sizeof(struct inner);
    free(n);
}

/* ---- descent and sums ---- */

static void locate(const struct kv_index *ix, struct bytes key, struct path *p)
{
    struct kv_index_node *n = ix->root;

    p->depth = 0;
    while (!n->is_leaf) {
        struct inner *in = (struct inner *)n;
        unsigned int i = child_slot(in, key);

        assert(p->depth < HEIGHT_MAX);
        p->inners[p->depth] = in;
        p->slots[p->depth++] = i;
        n = in->children[i];
    }
    p->leaf = (struct kv_index_leaf *)n;
}

static void add_sums(struct kv_index *ix, const struct path *p, int64_t count, int64_t bytes)
{
    for (unsigned int d = 0; d < p->depth; d++) {
        p->inners[d]->live_count[p->slots[d]] += (uint64_t)count;
        p->inners[d]->live_bytes[p->slots[d]] += (uint64_t)bytes;
    }
    ix->live_count += (uint64_t)count;
    ix->live_bytes += (uint64_t)bytes;
}

static void leaf_sums(const struct kv_index_leaf *leaf, uint64_t *ret_count, uint64_t *ret_bytes)
{
    *ret_count = (uint64_t)__builtin_popcountll(leaf->live);
    *ret_bytes = 0;
    for (unsigned int i = 0; i < leaf->node.count; i++)
        if (leaf->live >> i & 1)
            *ret_bytes += kv_framed_size(leaf->entries[i]->size);
}

static void node_sums(const struct kv_index_node *n, uint64_t *ret_count, uint64_t *ret_bytes)
{
    const struct inner *in = (const struct inner *)n;

    if (n->is_leaf) {
        leaf_sums((const struct kv_index_leaf *)n, ret_count, ret_bytes);
        return;
    }
    *ret_count = *ret_bytes = 0;
    for (unsigned int i = 0; i < n->count; i++) {
        *ret_count += in->live_count[i];
        *ret_bytes += in->live_bytes[i];
    }
}

static void set_sums(struct inner *in, unsigned int i)
{
    node_sums(in->children[i], &in->live_count[i], &in->live_bytes[i]);
}

/* ---- inserting ---- */

static struct separator *separator_between(struct kv_index *ix, struct bytes left,
                                           struct bytes right)
{
    size_t len = common_prefix(left, right) + 1;
    struct separator *s;

    assert(len <= right.len); /* right is greater, so it has a byte there */
    s = xmalloc(sizeof(*s) + len);
    s->len = (uint32_t)len;
    memcpy(s->data, right.data, len);
    ix->memory_bytes += sizeof(*s) + len + 8;
    return s;
}

static void separator_free(struct kv_index *ix, struct separator *s)
{
    if (s != NULL)
        ix->memory_bytes -= sizeof(*s) + s->len + 8;
    free(s);
}

static void open_inner_slot(struct inner *in, unsigned int i)
{
    size_t n = in->node.count - i;

    memmove(&in->separators[i + 1], &in->separators[i], n * sizeof(in->separators[0]));
    memmove(&in->children[i + 1], &in->children[i], n * sizeof(in->children[0]));
    memmove(&in->live_count[i + 1], &in->live_count[i], n * sizeof(in->live_count[0]));
    memmove(&in->live_bytes[i + 1], &in->live_bytes[i], n * sizeof(in->live_bytes[0]));
    memmove(&in->node.heads[i + 1], &in->node.heads[i], n * sizeof(in->node.heads[0]));
    in->node.count++;
}

static void close_inner_slot(struct inner *in, unsigned int i)
{
    size_t n = in->node.count - i - 1;

    memmove(&in->separators[i], &in->separators[i + 1], n * sizeof(in->separators[0]));
    memmove(&in->children[i], &in->children[i + 1], n * sizeof(in->children[0]));
    memmove(&in->live_count[i], &in->live_count[i + 1], n * sizeof(in->live_count[0]));
    memmove(&in->live_bytes[i], &in->live_bytes[i + 1], n * sizeof(in->live_bytes[0]));
    memmove(&in->node.heads[i], &in->node.heads[i + 1], n * sizeof(in->node.heads[0]));
    in->node.count--;
}

/* Moves the slots from `at` on into a new right neighbour. *ret_separator: its first one's. */
static struct inner *split_inner(struct kv_index *ix, struct inner *in, unsigned int at,
                                 struct separator **ret_separator)
{
    struct inner *right = inner_new(ix);
    unsigned int n = in->node.count - at;

    memcpy(right->separators, &in->separators[at], n * sizeof(in->separators[0]));
    memcpy(right->children, &in->children[at], n * sizeof(in->children[0]));
    memcpy(right->live_count, &in->live_count[at], n * sizeof(in->live_count[0]));
    memcpy(right->live_bytes, &in->live_bytes[at], n * sizeof(in->live_bytes[0]));
    right->node.count = (uint16_t)n;
    in->node.count = (uint16_t)at;
    *ret_separator = right->separators[0];
    right->separators[0] = NULL;
    rebuild_heads(&in->node);
    rebuild_heads(&right->node);
    return right;
}

/* `right` (>= separator) is a new right neighbour of the node at the end of the path's first
 * `depth` steps; sums of the left one are stale. Takes the separator. */
static void insert_child(struct kv_index *ix, struct path *p, unsigned int depth,
                         struct kv_index_node *right, struct separator *separator)
{
    struct inner *in, *in_right = NULL;
    struct separator *up = NULL;
    unsigned int slot;

    if (depth == 0) {
        in = inner_new(ix);
        in->children[0] = ix->root;
        in->children[1] = right;
        in->separators[1] = separator;
        in->node.count = 2;
        set_sums(in, 0);
        set_sums(in, 1);
        rebuild_heads(&in->node);
        ix->root = &in->node;
        ix->height++;
        assert(ix->height < HEIGHT_MAX);
        return;
    }
    in = p->inners[depth - 1];
    slot = p->slots[depth - 1];
    set_sums(in, slot);
    if (in->node.count == FANOUT) {
        bool at_end = slot == FANOUT - 1u;

        in_right = split_inner(ix, in, at_end ? FANOUT - 4u : FANOUT / 2u, &up);
        if (slot >= in->node.count) {
            slot -= in->node.count;
            in = in_right;
        }
    }
    open_inner_slot(in, slot + 1);
    in->children[slot + 1] = right;
    in->separators[slot + 1] = separator;
    set_sums(in, slot + 1);
    fix_head(&in->node, slot + 1);
    if (in_right != NULL)
        insert_child(ix, p, depth - 1, &in_right->node, up);
}

static void leaf_insert_at(struct kv_index_leaf *leaf, unsigned int i, struct kv_entry *e)
{
    size_t n = leaf->node.count - i;
    uint64_t below = ((uint64_t)1 << i) - 1;

    assert(leaf->node.count < FANOUT);
    memmove(&leaf->entries[i + 1], &leaf->entries[i], n * sizeof(leaf->entries[0]));
    memmove(&leaf->node.heads[i + 1], &leaf->node.heads[i], n * sizeof(leaf->node.heads[0]));
    leaf->entries[i] = e;
    leaf->live = (leaf->live & below) | (leaf->live & ~below) << 1 |
                 (uint64_t)kv_entry_is_live(e) << i;
    leaf->node.count++;
    fix_head(&leaf->node, i);
}

/* Splits the full leaf so that slot i of it has room; returns the new right one. */
static struct kv_index_leaf *split_leaf(struct kv_index *ix, struct kv_index_leaf *leaf,
                                        unsigned int i)
{
    struct kv_index_leaf *right = leaf_new(ix);
    unsigned int at = leaf->next == NULL && i == FANOUT ? FANOUT : FANOUT / 2u;
    unsigned int n = FANOUT - at;

    right->prev = leaf;
    right->next = leaf->next;
    if (leaf->next != NULL)
        leaf->next->prev = right;
    else
        ix->last = right;
    leaf->next = right;
    memcpy(right->entries, &leaf->entries[at], n * sizeof(leaf->entries[0]));
    right->node.count = (uint16_t)n;
    leaf->node.count = (uint16_t)at;
    if (at < FANOUT) {
        right->live = leaf->live >> at;
        leaf->live &= ((uint64_t)1 << at) - 1;
    }
    rebuild_heads(&leaf->node);
    rebuild_heads(&right->node);
    return right;
}

static void insert_entry(struct kv_index *ix, struct path *p, unsigned int i, struct kv_entry *e)
{
    struct kv_index_leaf *leaf = p->leaf;

    ix->memory_bytes += kv_entry_memory_bytes(e);
    ix->entry_count++;
    if (leaf->node.count < FANOUT) {
        leaf_insert_at(leaf, i, e);
        if (kv_entry_is_live(e))
            add_sums(ix, p, 1, (int64_t)kv_framed_size(e->size));
        return;
    }
    if (kv_entry_is_live(e)) /* first on the path as it is; insert_child redoes what splits */
        add_sums(ix, p, 1, (int64_t)kv_framed_size(e->size));

    struct kv_index_leaf *right = split_leaf(ix, leaf, i);

    if (i >= leaf->node.count)
        leaf_insert_at(right, i - leaf->node.count, e);
    else
        leaf_insert_at(leaf, i, e);
    insert_child(ix, p, p->depth, &right->node,
                 separator_between(ix, kv_entry_key(leaf->entries[leaf->node.count - 1]),
                                   kv_entry_key(right->entries[0])));
}

static void make_root(struct kv_index *ix)
{
    struct kv_index_leaf *leaf;

    if (ix->root != NULL)
        return;
    leaf = leaf_new(ix);
    ix->root = &leaf->node;
    ix->first = ix->last = leaf;
}

int kv_index_append(struct kv_index *ix, struct kv_entry *e)
{
    struct path p;
    struct kv_index_node *n;

    make_root(ix);
    if (ix->last->node.count > 0 &&
        bytes_cmp(kv_entry_key(ix->last->entries[ix->last->node.count - 1]), kv_entry_key(e)) >=
            0) {
        kv_entry_free(e);
        return -EBADMSG;
    }
    p.depth = 0;
    for (n = ix->root; !n->is_leaf;) {
        struct inner *in = (struct inner *)n;

        p.inners[p.depth] = in;
        p.slots[p.depth++] = n->count - 1u;
        n = in->children[n->count - 1];
    }
    p.leaf = (struct kv_index_leaf *)n;
    if (e->size != KV_CELL_DELETED)
        ix->record_bytes += e->size;
    for (uint32_t i = 0; e->history != NULL && i < e->history->count; i++)
        if (e->history->cells[i].size < KV_CELL_DELETED)
            ix->record_bytes += e->history->cells[i].size;
    insert_entry(ix, &p, n->count, e);
    return 0;
}

/* ---- versions ---- */

static void push_newest(struct kv_index *ix, struct kv_entry *e)
{
    ix->memory_bytes -= kv_entry_memory_bytes(e);
    kv_entry_push_newest(e);
    ix->memory_bytes += kv_entry_memory_bytes(e);
}

static int revision_cmp(int64_t main_a, uint32_t sub_a, int64_t main_b, uint32_t sub_b)
{
    if (main_a != main_b)
        return main_a < main_b ? -1 : 1;
    return sub_a < sub_b ? -1 : sub_a > sub_b;
}

struct kv_entry *kv_index_put(struct kv_index *ix, const struct kv_put_args *args)
{
    struct path p;
    struct kv_entry *e;
    unsigned int i;
    bool equal;

    assert(args->key.len > 0);
    assert(args->size <= KV_RECORD_BYTES_MAX);
    make_root(ix);
    locate(ix, args->key, &p);
    i = lower_bound(&p.leaf->node, args->key, &equal);
    ix->record_bytes += args->size;
    if (equal) {
        int64_t old_bytes, old_count;

        e = p.leaf->entries[i];
        assert(revision_cmp(e->mod_revision, e->mod_sub, args->main, args->sub) < 0);
        old_count = kv_entry_is_live(e);
        old_bytes = old_count != 0 ? (int64_t)kv_framed_size(e->size) : 0;
        push_newest(ix, e);
        p.leaf->live |= (uint64_t)1 << i;
        add_sums(ix, &p, 1 - old_count, (int64_t)kv_framed_size(args->size) - old_bytes);
    } else {
        e = kv_entry_new(args->key);
    }
    e->create_revision = args->create_revision;
    e->version = args->version;
    e->mod_revision = args->main;
    e->mod_sub = args->sub;
    e->lease = args->lease;
    e->size = args->size;
    if (!equal)
        insert_entry(ix, &p, i, e);
    return e;
}

void kv_index_delete(struct kv_index *ix, struct kv_entry *e, int64_t main, uint32_t sub)
{
    struct path p;
    unsigned int i;
    bool equal;

    assert(kv_entry_is_live(e));
    assert(revision_cmp(e->mod_revision, e->mod_sub, main, sub) < 0);
    locate(ix, kv_entry_key(e), &p);
    i = lower_bound(&p.leaf->node, kv_entry_key(e), &equal);
    assert(equal);
    add_sums(ix, &p, -1, -(int64_t)kv_framed_size(e->size));
    p.leaf->live &= ~((uint64_t)1 << i);
    push_newest(ix, e);
    e->mod_revision = main;
    e->mod_sub = sub;
    e->size = KV_CELL_DELETED;
    e->lease = 0;
}

void kv_index_replay_delete(struct kv_index *ix, struct bytes key, int64_t main, uint32_t sub)
{
    struct path p;
    struct kv_entry *e;
    unsigned int i;
    bool equal;

    make_root(ix);
    locate(ix, key, &p);
    i = lower_bound(&p.leaf->node, key, &equal);
    e = equal ? p.leaf->entries[i] : kv_entry_new(key);
    if (equal && kv_entry_is_live(e)) {
        kv_index_delete(ix, e, main, sub);
        return;
    }
    if (equal)
        push_newest(ix, e);
    e->mod_revision = main;
    e->mod_sub = sub;
    e->size = KV_CELL_DELETED;
    if (!equal)
        insert_entry(ix, &p, i, e);
}

bool kv_index_compact_entry(struct kv_index *ix, struct kv_entry *e, int64_t revision,
                            kv_entry_dropped dropped, void *user)
{
    uint64_t record_bytes;
    bool remove;

    ix->memory_bytes -= kv_entry_memory_bytes(e);
    remove = kv_entry_compact(e, revision, dropped, user, &record_bytes);
    ix->memory_bytes += kv_entry_memory_bytes(e);
    ix->record_bytes -= record_bytes;
    return remove;
}

/* ---- removing ---- */

static void unlink_leaf(struct kv_index *ix, struct kv_index_leaf *leaf)
{
    if (leaf->prev != NULL)
        leaf->prev->next = leaf->next;
    else
        ix->first = leaf->next;
    if (leaf->next != NULL)
        leaf->next->prev = leaf->prev;
    else
        ix->last = leaf->prev;
    free_node(ix, &leaf->node);
}

/* Takes child `slot` out of the inner node at depth - 1; frees inner nodes that are empty then. */
static void remove_child(struct kv_index *ix, struct path *p, unsigned int depth)
{
    struct inner *in;
    unsigned int slot;

    if (depth == 0) { /* the root itself is gone */
        ix->root = NULL;
        ix->height = 0;
        return;
    }
    in = p->inners[depth - 1];
    slot = p->slots[depth - 1];
    separator_free(ix, in->separators[slot]);
    close_inner_slot(in, slot);
    if (in->node.count == 0) {
        free_node(ix, &in->node);
        remove_child(ix, p, depth - 1);
        return;
    }
    if (slot == 0) { /* what was the second is the first now and needs no separator */
        separator_free(ix, in->separators[0]);
        in->separators[0] = NULL;
    }
    rebuild_heads(&in->node);
}

/* Joins the leaf at the path's end with its right or left neighbour when both fit well into one. */
static void join_leaf(struct kv_index *ix, struct path *p)
{
    struct inner *in = p->inners[p->depth - 1];
    unsigned int slot = p->slots[p->depth - 1];
    struct kv_index_leaf *left, *right;
    unsigned int n;

    if (slot + 1u == in->node.count) {
        if (slot == 0)
            return;
        slot--;
    }
    left = (struct kv_index_leaf *)in->children[slot];
    right = (struct kv_index_leaf *)in->children[slot + 1];
    n = left->node.count;
    if (n + right->node.count > FANOUT * 3 / 4)
        return;
    memcpy(&left->entries[n], right->entries, right->node.count * sizeof(right->entries[0]));
    left->live |= right->live << n;
    left->node.count = (uint16_t)(n + right->node.count);
    rebuild_heads(&left->node);
    unlink_leaf(ix, right);
    in->live_count[slot] += in->live_count[slot + 1];
    in->live_bytes[slot] += in->live_bytes[slot + 1];
    p->slots[p->depth - 1] = slot + 1;
    remove_child(ix, p, p->depth);
}

void kv_index_remove(struct kv_index *ix, struct kv_entry *e)
{
    struct path p;
    struct kv_index_leaf *leaf;
    unsigned int i;
    uint64_t below;
    bool equal;

    assert(!kv_entry_is_live(e));
    locate(ix, kv_entry_key(e), &p);
    leaf = p.leaf;
    i = lower_bound(&leaf->node, kv_entry_key(e), &equal);
    assert(equal && leaf->entries[i] == e);
    ix->memory_bytes -= kv_entry_memory_bytes(e);
    ix->entry_count--;
    below = ((uint64_t)1 << i) - 1;
    leaf->live = (leaf->live & below) | (leaf->live >> 1 & ~below);
    leaf->node.count--;
    memmove(&leaf->entries[i], &leaf->entries[i + 1],
            (leaf->node.count - i) * sizeof(leaf->entries[0]));
    memmove(&leaf->node.heads[i], &leaf->node.heads[i + 1],
            (leaf->node.count - i) * sizeof(leaf->node.heads[0]));
    kv_entry_free(e);
    if (leaf->node.count == 0) {
        unlink_leaf(ix, leaf);
        remove_child(ix, &p, p.depth);
    } else if (leaf->node.count < LEAF_LOW && p.depth > 0) {
        join_leaf(ix, &p);
    }
    while (ix->root != NULL && !ix->root->is_leaf && ix->root->count == 1) {
        struct inner *in = (struct inner *)ix->root;

        ix->root = in->children[0];
        free_node(ix, &in->node);
        ix->height--;
    }
}

/* ---- looking ---- */

struct kv_entry *kv_index_find(const struct kv_index *ix, struct bytes key)
{
    struct kv_index_node *n = ix->root;
    unsigned int i;
    bool equal;

    if (n == NULL)
        return NULL;
    while (!n->is_leaf)
        n = ((struct inner *)n)->children[child_slot((struct inner *)n, key)];
    i = lower_bound(n, key, &equal);
    return equal ? ((struct kv_index_leaf *)n)->entries[i] : NULL;
}

void kv_index_seek(const struct kv_index *ix, struct bytes key, struct kv_index_iter *ret)
{
    struct path p;
    bool equal;

    if (ix->root == NULL) {
        *ret = (struct kv_index_iter){NULL, 0};
        return;
    }
    locate(ix, key, &p);
    ret->leaf = p.leaf;
    ret->pos = lower_bound(&p.leaf->node, key, &equal);
    if (ret->pos == p.leaf->node.count)
        *ret = (struct kv_index_iter){p.leaf->next, 0};
}

void kv_index_first(const struct kv_index *ix, struct kv_index_iter *ret)
{
    *ret = (struct kv_index_iter){ix->first, 0};
}

struct kv_entry *kv_index_iter_get(const struct kv_index_iter *it)
{
    return it->leaf == NULL ? NULL : it->leaf->entries[it->pos];
}

void kv_index_iter_next(struct kv_index_iter *it)
{
    if (++it->pos == it->leaf->node.count)
        *it = (struct kv_index_iter){it->leaf->next, 0};
}

uint64_t kv_index_rank(const struct kv_index *ix, struct bytes key)
{
    struct kv_index_node *n = ix->root;
    uint64_t rank = 0;
    unsigned int i;
    bool equal;

    if (n == NULL)
        return 0;
    while (!n->is_leaf) {
        const struct inner *in = (struct inner *)n;
        unsigned int slot = child_slot(in, key);

        for (i = 0; i < slot; i++)
            rank += in->live_count[i];
        n = in->children[slot];
    }
    i = lower_bound(n, key, &equal);
    if (i > 0)
        rank += (uint64_t)__builtin_popcountll(((struct kv_index_leaf *)n)->live << (FANOUT - i));
    return rank;
}

uint64_t kv_index_bytes_at(const struct kv_index *ix, uint64_t rank)
{
    const struct kv_index_node *n = ix->root;
    const struct kv_index_leaf *leaf;
    uint64_t bytes = 0;

    assert(rank <= ix->live_count);
    if (rank == ix->live_count)
        return ix->live_bytes;
    while (!n->is_leaf) {
        const struct inner *in = (const struct inner *)n;
        unsigned int i = 0;

        while (rank >= in->live_count[i]) {
            rank -= in->live_count[i];
            bytes += in->live_bytes[i++];
        }
        n = in->children[i];
    }
    leaf = (const struct kv_index_leaf *)n;
    for (unsigned int i = 0; rank > 0; i++)
        if (leaf->live >> i & 1) {
            bytes += kv_framed_size(leaf->entries[i]->size);
            rank--;
        }
    return bytes;
}

/* ---- life ---- */

void kv_index_init(struct kv_index *ix)
{
    *ix = (struct kv_index){0};
}

static void free_tree(struct kv_index_node *n)
{
    if (n->is_leaf) {
        for (unsigned int i = 0; i < n->count; i++)
            kv_entry_free(((struct kv_index_leaf *)n)->entries[i]);
    } else {
        for (unsigned int i = 0; i < n->count; i++) {
            free(((struct inner *)n)->separators[i]);
            free_tree(((struct inner *)n)->children[i]);
        }
    }
    free(n);
}

void kv_index_fini(struct kv_index *ix)
{
    if (ix->root != NULL)
        free_tree(ix->root);
    *ix = (struct kv_index){0};
}

static unsigned int check_node(const struct kv_index_node *n, const struct kv_index_leaf **prev,
                               unsigned int depth)
{
    const struct inner *in = (const struct inner *)n;
    const struct kv_index_leaf *leaf = (const struct kv_index_leaf *)n;
    unsigned int height = 0;

    assert(n->count > 0);
    for (unsigned int i = n->is_leaf ? 0 : 1; i < n->count; i++)
        assert(n->heads[i] == head_of(slot_key(n, i), n->skip));
    if (n->is_leaf) {
        for (unsigned int i = 0; i < n->count; i++) {
            assert((leaf->live >> i & 1) == kv_entry_is_live(leaf->entries[i]));
            if (i > 0)
                assert(bytes_cmp(slot_key(n, i - 1), slot_key(n, i)) < 0);
        }
        assert(leaf->prev == *prev);
        if (*prev != NULL) {
            assert((*prev)->next == leaf);
            assert(bytes_cmp(slot_key(&(*prev)->node, (*prev)->node.count - 1u), slot_key(n, 0)) <
                   0);
        }
        *prev = leaf;
        return 0;
    }
    for (unsigned int i = 0; i < n->count; i++) {
        uint64_t count, bytes;

        height = check_node(in->children[i], prev, depth + 1) + 1;
        node_sums(in->children[i], &count, &bytes);
        assert(in->live_count[i] == count);
        assert(in->live_bytes[i] == bytes);
    }
    return height;
}

void kv_index_check(const struct kv_index *ix)
{
    const struct kv_index_leaf *prev = NULL;
    uint64_t count, bytes;

    if (ix->root == NULL) {
        assert(ix->entry_count == 0 && ix->live_count == 0 && ix->live_bytes == 0);
        assert(ix->memory_bytes == 0 && ix->record_bytes == 0);
        return;
    }
    assert(check_node(ix->root, &prev, 0) == ix->height);
    assert(prev == ix->last);
    node_sums(ix->root, &count, &bytes);
    assert(count == ix->live_count);
    assert(bytes == ix->live_bytes);
}
