/*
 * The index as a file. Blocks of {u32 length, u32 CRC-32C, payload}: a head block, blocks of
 * entries in key order, an end block with their number.
 *
 * The content is the state exactly as of the moment it was begun, although entries are applied
 * while it is written: a version above that revision is left out, and what was the newest version
 * then is found among the older ones now. The pin keeps compaction from them. (Rejected: taking
 * entries as they are when their turn comes. It needs no history, but the file is then of no
 * single revision and useless until everything up to its end is durable.)
 */
#include "stored/kv/kv_internal.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "lib/util/crc32c.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"
#include "lib/wire/wire.h"

enum {
    CHECKPOINT_MAGIC = 0x4b435643, /* "CVCK" */
    CHECKPOINT_VERSION = 2,
    BLOCK_BYTES = 32 << 10,
    BLOCK_BYTES_MAX = 1 << 30,
    WALK_SLICE = 2048,
};

enum block_kind { BLOCK_HEAD = 1, BLOCK_ENTRIES, BLOCK_END };

struct kv_checkpoint {
    struct kv *kv;
    struct kv_pin pin;
    uint64_t index;
    struct buf head; /* the first block, then empty */
    struct buf cursor;
    struct buf block;
    struct buf last_key; /* in this block */
    uint64_t entry_count;
    bool done;
};

/* ---- writing ---- */

static void put_block(struct buf *out, struct bytes payload)
{
    wire_put_u32(out, (uint32_t)payload.len);
    wire_put_u32(out, crc32c(0, payload.data, payload.len));
    buf_append_bytes(out, payload);
}

struct kv_checkpoint *kv_checkpoint_new(struct kv *kv)
{
    struct kv_checkpoint *c = xcalloc(1, sizeof(*c));
    CLEANUP(buf_fini) struct buf tables = BUF_INIT;

    assert(!kv->in_turn);
    c->kv = kv;
    c->index = kv->applied_index;
    c->pin.revision = kv->revision;
    kv->checkpoint_index = c->index;
    kv->checkpoint_revision = kv->revision;
    list_push_back(&kv->pins, &c->pin.node);

    wire_put_u8(&c->head, BLOCK_HEAD);
    wire_put_u32(&c->head, CHECKPOINT_MAGIC);
    wire_put_u32(&c->head, CHECKPOINT_VERSION);
    wire_put_u64(&c->head, kv->applied_index);
    wire_put_u64(&c->head, kv->applied_term);
    wire_put_u64(&c->head, kv->chain_hash);
    wire_put_i64(&c->head, kv->revision);
    wire_put_i64(&c->head, kv->compact_revision);
    wire_put_u8(&c->head, kv->lease_seen);
    store_members_encode(&kv->members, &tables);
    wire_put_bytes(&c->head, buf_bytes(&tables));
    buf_clear(&tables);
    store_alarms_encode(&kv->alarms, &tables);
    wire_put_bytes(&c->head, buf_bytes(&tables));
    wire_put_bytes(&c->head, buf_bytes(&kv->cluster_version));
    buf_clear(&kv->checkpoint_leases);
    lease_table_encode(&kv->leases, &kv->checkpoint_leases);
    wire_put_bytes(&c->head, buf_bytes(&kv->checkpoint_leases));
    buf_clear(&tables);
    auth_store_encode(&kv->auth, &tables);
    wire_put_bytes(&c->head, buf_bytes(&tables));
    return c;
}

uint64_t kv_checkpoint_index(const struct kv_checkpoint *c)
{
    return c->index;
}

void kv_checkpoint_free(struct kv_checkpoint *c)
{
    if (c == NULL)
        return;
    list_remove(&c->pin.node);
    kv_compact_wake(c->kv);
    buf_fini(&c->head);
    buf_fini(&c->cursor);
    buf_fini(&c->block);
    buf_fini(&c->last_key);
    free(c);
}

static void put_key(struct kv_checkpoint *c, struct bytes key)
{
    size_t shared = 0, most = MIN(key.len, c->last_key.len);

    while (shared < most && key.data[shared] == c->last_key.data[shared])
        shared++;
    pb_put_varint(&c->block, shared);
    pb_put_varint(&c->block, key.len - shared);
    buf_append(&c->block, key.data + shared, key.len - shared);
    buf_clear(&c->last_key);
    buf_append_bytes(&c->last_key, key);
}

/* What of the entry existed at the checkpoint's revision: its newest version then, and how many
 * cells of its history were history then. False: nothing. */
static bool entry_then(const struct kv_entry *e, int64_t revision, struct kv_entry *ret,
                       uint32_t *ret_cells)
{
    *ret = *e;
    *ret_cells = e->history != NULL ? e->history->count : 0;
    if (e->mod_revision <= revision)
        return true;
    return kv_entry_before(e, revision, ret, ret_cells);
}

static int lease_then(struct kv *kv, struct kv_entry *then)
{
    struct kv_record record;
    int r;

    then->lease = 0;
    if (!kv->lease_seen || !kv_entry_is_live(then))
        return 0;
    buf_clear(&kv->scratch);
    r = kv_get_record(kv, then->mod_revision, then->mod_sub, false, &kv->scratch);
    if (r == 0)
        r = kv_record_decode(buf_bytes(&kv->scratch), &record);
    if (r == 0)
        then->lease = record.lease;
    return r;
}

static int put_entry(struct kv_checkpoint *c, const struct kv_entry *e)
{
    struct kv_entry then;
    uint32_t cells;
    int r = 0;

    if (!entry_then(e, c->pin.revision, &then, &cells))
        return 0;
    if (then.mod_revision != e->mod_revision || then.mod_sub != e->mod_sub)
        r = lease_then(c->kv, &then);
    if (r < 0)
        return r;
    put_key(c, kv_entry_key(e));
    pb_put_varint(&c->block, (uint64_t)then.create_revision);
    pb_put_varint(&c->block, (uint64_t)then.version);
    pb_put_varint(&c->block, (uint64_t)then.mod_revision);
    pb_put_varint(&c->block, then.mod_sub);
    pb_put_varint(&c->block, then.size);
    pb_put_varint(&c->block, (uint64_t)then.lease);
    pb_put_varint(&c->block, cells);
    if (cells > 0)
        buf_append(&c->block, e->history->cells, cells * sizeof(e->history->cells[0]));
    c->entry_count++;
    return 0;
}

static void begin_block(struct kv_checkpoint *c)
{
    buf_clear(&c->block);
    buf_clear(&c->last_key);
    wire_put_u8(&c->block, BLOCK_ENTRIES);
}

/* One block of entries. 1: more. */
static int put_entries(struct kv_checkpoint *c, struct buf *out)
{
    struct kv_index_iter it;
    const struct kv_entry *e;
    size_t looked = 0;
    int r = 0;

    if (c->cursor.len > 0)
        kv_index_seek(&c->kv->index, buf_bytes(&c->cursor), &it);
    else
        kv_index_first(&c->kv->index, &it);
    begin_block(c);
    for (; (e = kv_index_iter_get(&it)) != NULL && r == 0; kv_index_iter_next(&it)) {
        if (c->block.len >= BLOCK_BYTES || looked++ == WALK_SLICE) {
            buf_clear(&c->cursor);
            buf_append_bytes(&c->cursor, kv_entry_key(e));
            break;
        }
        r = put_entry(c, e);
    }
    if (r == 0 && c->block.len > 1)
        put_block(out, buf_bytes(&c->block));
    return r < 0 ? r : e != NULL;
}

int kv_checkpoint_step(struct kv_checkpoint *c, size_t max_bytes, struct buf *out)
{
    size_t at = out->len;
    int r = 1;

    assert(!c->kv->in_turn);
    if (c->done)
        return 0;
    if (c->head.len > 0) {
        put_block(out, buf_bytes(&c->head));
        buf_clear(&c->head);
    }
    while (r == 1 && out->len - at < max_bytes)
        r = put_entries(c, out);
    if (r == 0) {
        buf_clear(&c->block);
        wire_put_u8(&c->block, BLOCK_END);
        wire_put_u64(&c->block, c->entry_count);
        put_block(out, buf_bytes(&c->block));
        c->done = true;
    }
    return r;
}

/* ---- loading ---- */

static uint64_t get_varint(struct wire_reader *r)
{
    uint64_t v = 0;

    for (unsigned int shift = 0; shift < 64; shift += 7) {
        uint8_t c = wire_get_u8(r);

        v |= (uint64_t)(c & 0x7f) << shift;
        if (c < 0x80)
            return v;
    }
    r->bad = true;
    return 0;
}

static struct bytes get_run(struct wire_reader *r, uint64_t len)
{
    struct bytes v = {r->pos, (size_t)len};

    if (r->bad || (uint64_t)(r->end - r->pos) < len) {
        r->bad = true;
        return BYTES_EMPTY;
    }
    r->pos += len;
    return v;
}

static bool get_key(struct wire_reader *r, struct buf *key)
{
    uint64_t shared = get_varint(r);
    struct bytes rest = get_run(r, get_varint(r));

    if (r->bad || shared > key->len || shared + rest.len == 0)
        return false;
    key->len = (size_t)shared;
    buf_append_bytes(key, rest);
    return true;
}

/* The cells are of this machine's making and CRC-checked; this keeps a bug from being followed. */
static bool cells_are_sane(struct bytes cells, uint64_t count, int64_t newest)
{
    int64_t last = 0;

    for (uint64_t i = 0; i < count; i++) {
        struct kv_cell c;

        memcpy(&c, cells.data + i * sizeof(c), sizeof(c));
        if ((c.size & KV_CELL_GENERATION) == KV_CELL_GENERATION) {
            if (i + 1 == count)
                return false;
            continue;
        }
        if (c.main < last || c.main > newest)
            return false;
        last = c.main;
    }
    return true;
}

static int load_entry(struct kv *kv, struct wire_reader *r, struct buf *key)
{
    struct kv_entry *e;
    struct bytes cells;
    uint64_t count, size;

    if (!get_key(r, key))
        return -EBADMSG;
    e = kv_entry_new(buf_bytes(key));
    e->create_revision = (int64_t)get_varint(r);
    e->version = (int64_t)get_varint(r);
    e->mod_revision = (int64_t)get_varint(r);
    e->mod_sub = (uint32_t)get_varint(r);
    size = get_varint(r);
    e->size = (uint32_t)size;
    e->lease = (int64_t)get_varint(r);
    count = get_varint(r);
    cells = get_run(r, count > UINT32_MAX ? UINT64_MAX : count * sizeof(struct kv_cell));
    if (r->bad || (size > KV_RECORD_BYTES_MAX && size != KV_CELL_DELETED) ||
        e->mod_revision > kv->revision ||
        !cells_are_sane(cells, count, e->mod_revision)) {
        kv_entry_free(e);
        return -EBADMSG;
    }
    kv_entry_set_history(e, cells.data, (uint32_t)count);
    return kv_index_append(&kv->index, e);
}

static int load_entries(struct kv *kv, struct wire_reader *r, uint64_t *entry_count)
{
    CLEANUP(buf_fini) struct buf key = BUF_INIT;
    int result = 0;

    while (result == 0 && r->pos < r->end) {
        result = load_entry(kv, r, &key);
        (*entry_count)++;
    }
    return result;
}

static int load_head(struct kv *kv, struct wire_reader *r)
{
    struct kv_batch_record tables = {
        .has_members = true, .has_alarms = true, .has_version = true, .has_leases = true,
        .has_auth = true};

    if (wire_get_u32(r) != CHECKPOINT_MAGIC || wire_get_u32(r) != CHECKPOINT_VERSION)
        return -EBADMSG;
    kv->applied_index = wire_get_u64(r);
    kv->applied_term = wire_get_u64(r);
    kv->chain_hash = wire_get_u64(r);
    kv->revision = wire_get_i64(r);
    kv->compact_revision = wire_get_i64(r);
    kv->lease_seen = wire_get_u8(r) != 0;
    tables.members = wire_get_bytes(r);
    tables.alarms = wire_get_bytes(r);
    tables.version = wire_get_bytes(r);
    tables.leases = wire_get_bytes(r);
    tables.auth = wire_get_bytes(r);
    if (wire_reader_done(r) != 0)
        return -EBADMSG;
    return kv_load_tables(kv, &tables);
}

static int load_blocks(struct kv *kv, struct bytes file, size_t *ret_offset)
{
    struct wire_reader in = wire_reader(file);
    enum block_kind expected = BLOCK_HEAD;
    uint64_t entry_count = 0;

    for (;;) {
        uint32_t len, crc;
        struct bytes payload;
        struct wire_reader r;
        uint8_t kind;
        int result;

        *ret_offset = (size_t)(in.pos - file.data);
        len = wire_get_u32(&in);
        crc = wire_get_u32(&in);
        payload = get_run(&in, len);
        if (in.bad || len > BLOCK_BYTES_MAX || crc32c(0, payload.data, payload.len) != crc)
            return -EBADMSG;
        r = wire_reader(payload);
        kind = wire_get_u8(&r);
        if ((kind == BLOCK_HEAD) != (expected == BLOCK_HEAD))
            return -EBADMSG;
        expected = BLOCK_ENTRIES;
        switch (kind) {
        case BLOCK_HEAD:
            result = load_head(kv, &r);
            break;
        case BLOCK_ENTRIES:
            result = load_entries(kv, &r, &entry_count);
            break;
        case BLOCK_END:
            return wire_get_u64(&r) == entry_count && wire_reader_done(&r) == 0 &&
                           in.pos == in.end
                       ? 0
                       : -EBADMSG;
        default:
            result = -EBADMSG;
        }
        if (result < 0)
            return result;
    }
}

int kv_checkpoint_load(struct kv *kv, struct bytes file, char **ret_warning)
{
    size_t offset = 0;
    int r = load_blocks(kv, file, &offset);

    if (r < 0)
        *ret_warning = xasprintf("the checkpoint is damaged in the block at offset %zu: ignored",
                                 offset);
    return r;
}
