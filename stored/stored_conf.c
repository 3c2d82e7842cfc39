#include "stored/stored.h"

#include <stddef.h>

#define FIELD(member) offsetof(struct stored_conf, member)

/* Names with and without "experimental-" are one setting: etcd renamed them in 3.6. */
const struct conf_field stored_conf_fields[] = {
    {"data-dir", CONF_STRING, FIELD(data_dir), "default.etcd", 0, 0, false,
     "directory of the member"},
    {"quota-backend-bytes", CONF_I64, FIELD(quota_backend_bytes), "0", 0, 0, false,
     "bytes; 0: 2 GiB, negative: no limit"},
    {"compaction-batch-limit", CONF_I64, FIELD(compaction_batch_limit), "0", 0, 0, true,
     "revisions removed in one slice; 0 or less: 1000"},
    {"experimental-compaction-batch-limit", CONF_I64, FIELD(compaction_batch_limit), "0", 0, 0,
     true, "the same"},
    {"compaction-sleep-interval", CONF_DURATION, FIELD(compaction_sleep_ns), "0", 0, 0, true,
     "pause between slices; 0: 10ms"},
    {"experimental-compaction-sleep-interval", CONF_DURATION, FIELD(compaction_sleep_ns), "0", 0, 0,
     true, "the same"},
    {"value-cache-bytes", CONF_U64, FIELD(value_cache_bytes), "33554432", 0, 0, false,
     "bytes of values kept in memory"},
    {"gateway-count", CONF_U64, FIELD(gateway_count), "1", 1, STORED_GATEWAYS_MAX, false,
     "gatewayd processes of this member"},
    {"unsafe-no-fsync", CONF_BOOL, FIELD(unsafe_no_fsync), "false", 0, 0, false,
     "do not sync files: a host crash can lose acknowledged writes"},
    {"checkpoint-interval", CONF_DURATION, FIELD(checkpoint_interval_ns), "5m", 0, 0, true,
     "between checkpoints of the index; 0: only at stop"},
    {"checkpoint-entries", CONF_U64, FIELD(checkpoint_entries), "500000", 1, 0, true,
     "entries between checkpoints at the latest"},
    {"watch-stall-timeout", CONF_DURATION, FIELD(watch_stall_ns), "5m", 0, 0, false,
     "without a client taking anything, then its watchers are canceled; 0: never"},
    {"auth-token", CONF_STRING, FIELD(auth_token), "simple", 0, 0, false,
     "kind of tokens: simple, or jwt,sign-method=RS256,priv-key=FILE,pub-key=FILE,ttl=5m"},
    {"auth-token-ttl", CONF_U64, FIELD(auth_token_ttl_s), "300", 0, UINT32_MAX, false,
     "seconds a simple token lives after its last use"},
    {"bcrypt-cost", CONF_U64, FIELD(bcrypt_cost), "10", 0, UINT32_MAX, false,
     "cost of password hashes, 4 to 31"},
    {"auto-compaction-mode", CONF_STRING, FIELD(auto_compaction_mode), "periodic", 0, 0, false,
     "periodic or revision"},
    {"auto-compaction-retention", CONF_STRING, FIELD(auto_compaction_retention), "0", 0, 0, false,
     "history to keep: hours, a duration, or revisions; 0: all"},
    CONF_END,
};
