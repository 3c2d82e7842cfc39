/*
 * Answers that are "no": the one list (style section 6). Positive, so a function can return 0,
 * an outcome, or a negative errno. The numbers travel between daemons of one version only.
 * gatewayd/grpc_status.c turns them into gRPC codes and etcd's exact texts, nobody else does.
 * Names follow etcd's rpctypes.
 */
#ifndef CONCLAVE_PROTO_OUTCOME_H
#define CONCLAVE_PROTO_OUTCOME_H

enum outcome {
    OUT_OK = 0,
    OUT_MALFORMED,            /* bytes that do not decode */
    OUT_INTERNAL,             /* our own failure; details in the daemon's log */
    OUT_UNIMPLEMENTED,
    OUT_CANCELED,             /* the caller went away */
    /* KV */
    OUT_EMPTY_KEY,
    OUT_KEY_NOT_FOUND,
    OUT_VALUE_PROVIDED,
    OUT_LEASE_PROVIDED,
    OUT_TOO_MANY_OPS,
    OUT_DUPLICATE_KEY,
    OUT_INVALID_SORT_OPTION,
    OUT_INVALID_CLIENT_API_VERSION,
    OUT_COMPACTED,
    OUT_FUTURE_REVISION,
    OUT_NO_SPACE,
    /* lease */
    OUT_LEASE_NOT_FOUND,
    OUT_LEASE_EXIST,
    OUT_LEASE_TTL_TOO_LARGE,
    OUT_WATCH_CANCELED,
    /* membership */
    OUT_MEMBER_EXIST,
    OUT_PEER_URL_EXIST,
    OUT_MEMBER_NOT_ENOUGH_STARTED,
    OUT_MEMBER_BAD_URLS,
    OUT_MEMBER_NOT_FOUND,
    OUT_MEMBER_NOT_LEARNER,
    OUT_LEARNER_NOT_READY,
    OUT_TOO_MANY_LEARNERS,
    OUT_CLUSTER_ID_MISMATCH,
    /* capacity and availability */
    OUT_REQUEST_TOO_LARGE,
    OUT_TOO_MANY_REQUESTS,
    OUT_NO_LEADER,
    OUT_NOT_LEADER,
    OUT_LEADER_CHANGED,
    OUT_NOT_CAPABLE,
    OUT_STOPPED,
    OUT_TIMEOUT,
    OUT_TIMEOUT_LEADER_FAIL,
    OUT_TIMEOUT_CONN_LOST,    /* also: a link broke, the outcome is unknown */
    OUT_TIMEOUT_WAIT_APPLIED,
    OUT_UNHEALTHY,
    OUT_CORRUPT,
    OUT_NOT_SUPPORTED_FOR_LEARNER,
    OUT_BAD_LEADER_TRANSFEREE,
    OUT_LEADER_TRANSFER_TIMEOUT,
    /* downgrade */
    OUT_WRONG_DOWNGRADE_VERSION_FORMAT,
    OUT_INVALID_DOWNGRADE_TARGET,
    OUT_CLUSTER_VERSION_UNAVAILABLE,
    OUT_DOWNGRADE_IN_PROGRESS,
    OUT_NO_INFLIGHT_DOWNGRADE,
    /* auth */
    OUT_ROOT_USER_NOT_EXIST,
    OUT_ROOT_ROLE_NOT_EXIST,
    OUT_USER_ALREADY_EXIST,
    OUT_USER_EMPTY,
    OUT_USER_NOT_FOUND,
    OUT_ROLE_ALREADY_EXIST,
    OUT_ROLE_NOT_FOUND,
    OUT_ROLE_EMPTY,
    OUT_AUTH_FAILED,
    OUT_PERMISSION_NOT_GIVEN,
    OUT_PERMISSION_DENIED,
    OUT_ROLE_NOT_GRANTED,
    OUT_PERMISSION_NOT_GRANTED,
    OUT_AUTH_NOT_ENABLED,
    OUT_INVALID_AUTH_TOKEN,
    OUT_INVALID_AUTH_MGMT,
    OUT_AUTH_OLD_REVISION,
    OUT_NO_PASSWORD_USER,     /* a password was given for a user without one */
    OUT_PASSWORD_TOO_LONG,
    /* watch */
    OUT_WATCH_TOO_SLOW,       /* its client took nothing for too long */
    OUT_NOT_PROPOSED,         /* there was no leader for it in all its time: nothing happened */
    OUT_COUNT
};

/* The enumerator's name without OUT_, for logs; "?" when out of range. */
const char *outcome_name(int outcome);

#endif
