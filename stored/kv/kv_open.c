/*
 * Opening: checkpoint, then the batch records, then the versions they cover.
 *
 * The chain of batch records decides what is there. Each names its predecessor's index and hash;
 * the first one that does not fit is beyond a gap that a crash of the host tore. It and everything
 * after it is removed, versions above the last good revision too: exactly the state after the last
 * good batch is left, because nothing is ever overwritten. The entries come again from the log.
 *
 * Without a usable checkpoint the chain begins at the first record ever, at a restored state's
 * base record, or where trimming ended ("trimmed"); records below that survive trimming only for
 * the tables they carry.
 */
#include "stored/kv/kv_internal.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/wire.h"
#include "stored/kv/kv_engine.h"

static void iter_freep(struct kv_engine_iter **it, const struct kv *kv)
{
    kv->engine->ops->iter_free(*it);
    *it = NULL;
}

/* Numbers, 0 when there are none. */
static int read_meta(struct kv *kv, struct bytes key, uint64_t *ret, size_t count)
{
    CLEANUP(buf_fini) struct buf value = BUF_INIT;
    struct wire_reader r;
    int result = kv->engine->ops->get(kv->engine, key, &value);

    memset(ret, 0, count * sizeof(ret[0]));
    if (result == -ENOENT)
        return 0;
    if (result < 0)
        return result;
    r = wire_reader(buf_bytes(&value));
    for (size_t i = 0; i < count; i++)
        ret[i] = wire_get_u64(&r);
    return wire_reader_done(&r);
}

/* Any key tells: all have the format in their first byte. */
static int check_format(struct kv *kv, char **ret_error)
{
    struct kv_engine_iter *it = kv->engine->ops->iter_new(kv->engine, false);
    struct bytes key = BYTES_EMPTY;
    int r;

    kv->engine->ops->iter_seek(it, bytes_of("", 1));
    if (kv->engine->ops->iter_valid(it))
        key = kv->engine->ops->iter_key(it);
    if (key.len > 0 && key.data[0] != KV_FORMAT) {
        *ret_error = xasprintf("it is of another format (keys begin with byte 0x%02x, of this version "
                               "with 0x%02x): start this member with an empty data directory",
                               key.data[0], KV_FORMAT);
        r = -EBADMSG;
    } else {
        r = kv->engine->ops->iter_result(it);
    }
    iter_freep(&it, kv);
    return r;
}

/* ---- the chain ---- */

struct chain {
    bool started;
    uint64_t trimmed; /* records below are there for their tables only */
};

static bool continues(const struct kv *kv, const struct chain *c, uint64_t index,
                      const struct kv_batch_record *record)
{
    if (c->started)
        return record->prev_index == kv->applied_index && record->prev_hash == kv->chain_hash;
    return record->is_base || record->prev_index == 0 || index == c->trimmed;
}

/* The leases as of where trimming ended: the changes before that are gone with their records. */
static int load_trimmed_leases(struct kv *kv)
{
    CLEANUP(buf_fini) struct buf table = BUF_INIT;
    int r = kv->engine->ops->get(kv->engine, KV_META_LEASES, &table);

    if (r != 0 && r != -ENOENT)
        return r;
    return lease_table_decode(&kv->leases, buf_bytes(&table));
}

static int take_batch(struct kv *kv, uint64_t index, const struct kv_batch_record *record,
                      bool is_trimmed)
{
    int r = kv_load_tables(kv, record);

    if (r == 0 && is_trimmed)
        r = load_trimmed_leases(kv);
    else if (r == 0 && record->has_lease_ops)
        r = lease_table_replay(&kv->leases, record->lease_ops);
    kv->applied_index = index;
    kv->applied_term = record->term;
    kv->chain_hash = record->hash;
    kv->revision = record->revision;
    kv->compact_revision = record->compact_revision;
    return r;
}

static void note_batch(struct kv *kv, uint64_t index, const struct kv_batch_record *record)
{
    if (!kv_batch_record_has_tables(record))
        kv_trim_note(kv, index, record->revision);
}

static int read_chain(struct kv *kv, struct chain *c, char **ret_error)
{
    const struct kv_engine_ops *ops = kv->engine->ops;
    struct kv_engine_iter *it = ops->iter_new(kv->engine, false);
    uint8_t key[KV_BATCH_KEY_BYTES];
    int r = 0;

    kv_batch_key(key, c->started ? kv->revision : 0, c->started ? kv->applied_index + 1 : 0);
    for (ops->iter_seek(it, bytes_of(key, sizeof(key))); ops->iter_valid(it); ops->iter_next(it)) {
        struct bytes k = ops->iter_key(it);
        struct kv_batch_record record;
        int64_t revision;
        uint64_t index;

        if (!kv_batch_key_parse(k, &revision, &index))
            continue;
        r = kv_batch_record_decode(ops->iter_value(it), &record);
        if (r == 0 && record.revision != revision)
            r = -EBADMSG;
        if (r < 0) {
            *ret_error = xasprintf("batch record of index %" PRIu64 " does not decode", index);
            break;
        }
        if (!c->started && index < c->trimmed) {
            r = kv_load_tables(kv, &record);
            if (r < 0)
                break;
            note_batch(kv, index, &record);
            continue;
        }
        if (!continues(kv, c, index, &record))
            break; /* a gap */
        r = take_batch(kv, index, &record, !c->started && index == c->trimmed);
        c->started = true;
        if (r < 0) {
            *ret_error = xasprintf("tables in batch record %" PRIu64 " do not decode", index);
            break;
        }
        note_batch(kv, index, &record);
    }
    if (r == 0)
        r = ops->iter_result(it);
    iter_freep(&it, kv);
    return r;
}

/* ---- the versions ---- */

static int replay_record(struct kv *kv, int64_t main, uint32_t sub, struct bytes data)
{
    struct kv_record record;
    struct kv_entry *e;

    if (kv_record_decode(data, &record) != 0)
        return -EBADMSG;
    e = kv_index_find(&kv->index, record.key);
    if (e != NULL && (e->mod_revision > main || (e->mod_revision == main && e->mod_sub >= sub)))
        return -EBADMSG;
    if (record.is_delete) {
        kv_index_replay_delete(&kv->index, record.key, main, sub);
        return 0;
    }
    if (record.mod_revision != main || data.len > KV_RECORD_BYTES_MAX)
        return -EBADMSG;
    kv->lease_seen = kv->lease_seen || record.lease != 0;
    kv_index_put(&kv->index, &(struct kv_put_args){
                                 .key = record.key,
                                 .main = main,
                                 .sub = sub,
                                 .create_revision = record.create_revision,
                                 .version = record.version,
                                 .lease = record.lease,
                                 .size = (uint32_t)data.len,
                             });
    return 0;
}

/* Every revision above the compact one has left a record: a missing one is damage. */
static int replay(struct kv *kv, int64_t after, char **ret_error)
{
    const struct kv_engine_ops *ops = kv->engine->ops;
    struct kv_engine_iter *it = ops->iter_new(kv->engine, false);
    uint8_t key[KV_RECORD_KEY_BYTES];
    int64_t main, last = MAX(after, kv->compact_revision);
    uint32_t sub;
    int r = 0;

    last = MAX(last, 1);
    kv_record_key(key, after + 1, 0);
    for (ops->iter_seek(it, bytes_of(key, sizeof(key))); r == 0 && ops->iter_valid(it);
         ops->iter_next(it)) {
        if (!kv_record_key_parse(ops->iter_key(it), &main, &sub))
            continue;
        if (main > kv->revision || main > last + 1)
            break;
        last = MAX(main, last);
        r = replay_record(kv, main, sub, ops->iter_value(it));
        if (r < 0)
            *ret_error =
                xasprintf("record of revision %" PRId64 ".%" PRIu32 " is damaged", main, sub);
    }
    if (r == 0)
        r = ops->iter_result(it);
    iter_freep(&it, kv);
    if (r == 0 && last < kv->revision) {
        *ret_error = xasprintf("the record of revision %" PRId64 " is missing, the newest is %" PRId64,
                               last + 1, kv->revision);
        r = -EBADMSG;
    }
    return r;
}

/* ---- cutting back ---- */

/* Adds deletes of everything from `from` on. */
static int delete_from(struct kv *kv, struct bytes from, struct buf *batch)
{
    const struct kv_engine_ops *ops = kv->engine->ops;
    struct kv_engine_iter *it = ops->iter_new(kv->engine, false);
    int r;

    for (ops->iter_seek(it, from); ops->iter_valid(it); ops->iter_next(it))
        kv_batch_delete(batch, ops->iter_key(it));
    r = ops->iter_result(it);
    iter_freep(&it, kv);
    return r;
}

/*
 * One batch, however large (it is what the engine had not synced): were the versions gone and a
 * batch record left, the chain could close again over it when its predecessor has been executed
 * anew. As one batch it may even get lost: what it deletes and what comes again are the same
 * bytes, because execution is deterministic.
 */
static int cut_back(struct kv *kv)
{
    uint8_t key[KV_BATCH_KEY_BYTES]; /* versions of later revisions and all later batches are above */
    CLEANUP(buf_fini) struct buf batch = BUF_INIT;
    int r;

    kv_batch_key(key, kv->revision, kv->applied_index + 1);
    r = delete_from(kv, bytes_of(key, sizeof(key)), &batch);
    if (r == 0 && batch.len > 0)
        kv_hand_over(kv, &batch);
    return r;
}

/* ---- opening ---- */

/* The batch record a checkpoint ends with is there, trimming keeps it: else the two are not of one
 * store. */
static bool belongs(struct kv *kv)
{
    CLEANUP(buf_fini) struct buf value = BUF_INIT;
    struct kv_batch_record record;
    uint8_t key[KV_BATCH_KEY_BYTES];

    if (kv->applied_index == 0)
        return true;
    kv_batch_key(key, kv->revision, kv->applied_index);
    return kv->engine->ops->get(kv->engine, bytes_of(key, sizeof(key)), &value) == 0 &&
           kv_batch_record_decode(buf_bytes(&value), &record) == 0 &&
           record.hash == kv->chain_hash && record.revision == kv->revision;
}

static struct kv *kv_new(const struct kv_args *args)
{
    struct kv *kv = xcalloc(1, sizeof(*kv));

    kv->engine = args->engine;
    kv_index_init(&kv->index);
    lease_table_init(&kv->leases);
    kv_cache_init(&kv->cache, args->cache_bytes != 0 ? args->cache_bytes : KV_CACHE_BYTES_DEFAULT);
    auth_store_init(&kv->auth);
    auth_tokens_init(&kv->auth_tokens, args->auth_token_ttl_ms);
    list_init(&kv->pins);
    kv->revision = 1;
    kv->compact_revision = -1;
    kv->compact.done = kv->compact.removed = -1;
    kv->compact.target = -1;
    kv->sequence = 1;
    return kv;
}

static void forget(struct kv *kv)
{
    kv_index_fini(&kv->index);
    store_members_fini(&kv->members);
    store_alarms_fini(&kv->alarms);
    lease_table_fini(&kv->leases);
    buf_clear(&kv->cluster_version);
    auth_store_fini(&kv->auth);
    kv->applied_index = kv->applied_term = kv->chain_hash = 0;
    kv->revision = 1;
    kv->compact_revision = -1;
}

static int open_content(struct kv *kv, struct bytes checkpoint, char **ret_error,
                        char **ret_warning)
{
    struct chain chain = {0};
    uint64_t compacted, trimmed[2]; /* kv_trim.c: the mark */
    int64_t after = 0;
    int r;

    r = check_format(kv, ret_error);
    if (r == 0)
        r = read_meta(kv, KV_META_TRIMMED, trimmed, 2);
    if (r == 0)
        r = read_meta(kv, KV_META_COMPACTED, &compacted, 1);
    if (r < 0)
        return r;
    chain.trimmed = trimmed[0];
    if (checkpoint.len > 0) {
        if (kv_checkpoint_load(kv, checkpoint, ret_warning) != 0) {
            forget(kv);
        } else if (!belongs(kv)) {
            *ret_warning = xasprintf("the checkpoint of index %" PRIu64
                                     " is not of this store: ignored",
                                     kv->applied_index);
            forget(kv);
        } else {
            chain.started = true;
            kv_trim_look_from(kv, (int64_t)trimmed[1]);
            after = kv->placed_revision = kv->revision;
        }
    }
    r = read_chain(kv, &chain, ret_error);
    if (r == 0)
        r = replay(kv, after, ret_error);
    if (r == 0)
        r = cut_back(kv); /* also versions of a batch whose record is gone */
    if (r == 0)
        kv_lease_attach_all(kv);
    if (r < 0)
        return r;
    kv->durable_index = kv->applied_index;
    kv->written_revision = kv->revision;
    /* what a compaction had not finished is redone, with a look at the engine's records: deletes
     * that were handed over may be lost while the checkpoint no longer knows the versions */
    kv->compact.done = kv->compact.removed = compacted == 0 ? -1 : (int64_t)compacted;
    kv->compact.needs_sweep = true;
    kv->compact.sweep_max = kv->revision;
    kv_compact_wake(kv);
    return 0;
}

int kv_open(const struct kv_args *args, struct kv **ret_kv, char **ret_error, char **ret_warning)
{
    struct kv *kv = kv_new(args);
    int r;

    *ret_error = *ret_warning = NULL;
    r = open_content(kv, args->checkpoint, ret_error, ret_warning);
    if (r < 0) {
        if (*ret_error == NULL)
            *ret_error = xstrdup("the engine cannot be read");
        kv_free(kv);
        return r;
    }
    *ret_kv = kv;
    return 0;
}
