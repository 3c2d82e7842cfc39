#include "gatewayd/grpc_status.h"

#include "lib/proto/outcome.h"
#include "lib/util/macros.h"

static const struct grpc_status table[OUT_COUNT] = {
    [OUT_OK] = {GRPC_OK, ""},
    [OUT_MALFORMED] = {GRPC_INTERNAL, "grpc: error unmarshalling request: unexpected EOF"},
    [OUT_INTERNAL] = {GRPC_INTERNAL, "etcdserver: internal error"},
    [OUT_UNIMPLEMENTED] = {GRPC_UNIMPLEMENTED, "etcdserver: not implemented"},
    [OUT_CANCELED] = {GRPC_CANCELED, "context canceled"},

    [OUT_EMPTY_KEY] = {GRPC_INVALID_ARGUMENT, "etcdserver: key is not provided"},
    [OUT_KEY_NOT_FOUND] = {GRPC_INVALID_ARGUMENT, "etcdserver: key not found"},
    [OUT_VALUE_PROVIDED] = {GRPC_INVALID_ARGUMENT, "etcdserver: value is provided"},
    [OUT_LEASE_PROVIDED] = {GRPC_INVALID_ARGUMENT, "etcdserver: lease is provided"},
    [OUT_TOO_MANY_OPS] = {GRPC_INVALID_ARGUMENT,
                          "etcdserver: too many operations in txn request"},
    [OUT_DUPLICATE_KEY] = {GRPC_INVALID_ARGUMENT,
                           "etcdserver: duplicate key given in txn request"},
    [OUT_INVALID_SORT_OPTION] = {GRPC_INVALID_ARGUMENT, "etcdserver: invalid sort option"},
    [OUT_INVALID_CLIENT_API_VERSION] = {GRPC_INVALID_ARGUMENT,
                                        "etcdserver: invalid client api version"},
    [OUT_COMPACTED] = {GRPC_OUT_OF_RANGE,
                       "etcdserver: mvcc: required revision has been compacted"},
    [OUT_FUTURE_REVISION] = {GRPC_OUT_OF_RANGE,
                             "etcdserver: mvcc: required revision is a future revision"},
    [OUT_NO_SPACE] = {GRPC_RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"},

    [OUT_LEASE_NOT_FOUND] = {GRPC_NOT_FOUND, "etcdserver: requested lease not found"},
    [OUT_LEASE_EXIST] = {GRPC_FAILED_PRECONDITION, "etcdserver: lease already exists"},
    [OUT_LEASE_TTL_TOO_LARGE] = {GRPC_OUT_OF_RANGE, "etcdserver: too large lease TTL"},
    [OUT_WATCH_CANCELED] = {GRPC_CANCELED, "etcdserver: watch canceled"},

    [OUT_MEMBER_EXIST] = {GRPC_FAILED_PRECONDITION, "etcdserver: member ID already exist"},
    [OUT_PEER_URL_EXIST] = {GRPC_FAILED_PRECONDITION, "etcdserver: Peer URLs already exists"},
    /* etcd means FailedPrecondition, but sends what its own client library makes of it */
    [OUT_MEMBER_NOT_ENOUGH_STARTED] =
        {GRPC_UNKNOWN,
         "etcdserver: re-configuration failed due to not enough started members"},
    [OUT_MEMBER_BAD_URLS] = {GRPC_INVALID_ARGUMENT, "etcdserver: given member URLs are invalid"},
    [OUT_MEMBER_NOT_FOUND] = {GRPC_NOT_FOUND, "etcdserver: member not found"},
    [OUT_MEMBER_NOT_LEARNER] = {GRPC_FAILED_PRECONDITION,
                                "etcdserver: can only promote a learner member"},
    [OUT_LEARNER_NOT_READY] =
        {GRPC_FAILED_PRECONDITION,
         "etcdserver: can only promote a learner member which is in sync with leader"},
    [OUT_TOO_MANY_LEARNERS] = {GRPC_FAILED_PRECONDITION,
                               "etcdserver: too many learner members in cluster"},
    [OUT_CLUSTER_ID_MISMATCH] = {GRPC_FAILED_PRECONDITION, "etcdserver: cluster ID mismatch"},

    [OUT_REQUEST_TOO_LARGE] = {GRPC_INVALID_ARGUMENT, "etcdserver: request is too large"},
    [OUT_TOO_MANY_REQUESTS] = {GRPC_UNKNOWN, "etcdserver: too many requests"}, /* likewise */
    [OUT_NO_LEADER] = {GRPC_UNAVAILABLE, "etcdserver: no leader"},
    [OUT_NOT_LEADER] = {GRPC_FAILED_PRECONDITION, "etcdserver: not leader"},
    [OUT_LEADER_CHANGED] = {GRPC_UNAVAILABLE, "etcdserver: leader changed"},
    [OUT_NOT_CAPABLE] = {GRPC_FAILED_PRECONDITION, "etcdserver: not capable"},
    [OUT_STOPPED] = {GRPC_UNAVAILABLE, "etcdserver: server stopped"},
    [OUT_TIMEOUT] = {GRPC_UNAVAILABLE, "etcdserver: request timed out"},
    [OUT_TIMEOUT_LEADER_FAIL] =
        {GRPC_UNAVAILABLE,
         "etcdserver: request timed out, possibly due to previous leader failure"},
    [OUT_TIMEOUT_CONN_LOST] = {GRPC_UNAVAILABLE,
                               "etcdserver: request timed out, possibly due to connection lost"},
    [OUT_TIMEOUT_WAIT_APPLIED] =
        {GRPC_UNAVAILABLE,
         "etcdserver: request timed out, waiting for the applied index took too long"},
    [OUT_UNHEALTHY] = {GRPC_UNAVAILABLE, "etcdserver: unhealthy cluster"},
    [OUT_CORRUPT] = {GRPC_DATA_LOSS, "etcdserver: corrupt cluster"},
    [OUT_NOT_SUPPORTED_FOR_LEARNER] = {GRPC_FAILED_PRECONDITION,
                                       "etcdserver: rpc not supported for learner"},
    [OUT_BAD_LEADER_TRANSFEREE] = {GRPC_FAILED_PRECONDITION,
                                   "etcdserver: bad leader transferee"},
    [OUT_LEADER_TRANSFER_TIMEOUT] =
        {GRPC_UNKNOWN, "etcdserver: request timed out, leader transfer took too long"},

    [OUT_WRONG_DOWNGRADE_VERSION_FORMAT] =
        {GRPC_INVALID_ARGUMENT, "etcdserver: wrong downgrade target version format"},
    [OUT_INVALID_DOWNGRADE_TARGET] = {GRPC_INVALID_ARGUMENT,
                                      "etcdserver: invalid downgrade target version"},
    [OUT_CLUSTER_VERSION_UNAVAILABLE] =
        {GRPC_FAILED_PRECONDITION, "etcdserver: cluster version not found during downgrade"},
    [OUT_DOWNGRADE_IN_PROGRESS] = {GRPC_FAILED_PRECONDITION,
                                   "etcdserver: cluster has a downgrade job in progress"},
    [OUT_NO_INFLIGHT_DOWNGRADE] = {GRPC_FAILED_PRECONDITION,
                                   "etcdserver: no inflight downgrade job"},

    [OUT_ROOT_USER_NOT_EXIST] = {GRPC_FAILED_PRECONDITION,
                                 "etcdserver: root user does not exist"},
    [OUT_ROOT_ROLE_NOT_EXIST] = {GRPC_FAILED_PRECONDITION,
                                 "etcdserver: root user does not have root role"},
    [OUT_USER_ALREADY_EXIST] = {GRPC_FAILED_PRECONDITION,
                                "etcdserver: user name already exists"},
    [OUT_USER_EMPTY] = {GRPC_INVALID_ARGUMENT, "etcdserver: user name is empty"},
    [OUT_USER_NOT_FOUND] = {GRPC_FAILED_PRECONDITION, "etcdserver: user name not found"},
    [OUT_ROLE_ALREADY_EXIST] = {GRPC_FAILED_PRECONDITION,
                                "etcdserver: role name already exists"},
    [OUT_ROLE_NOT_FOUND] = {GRPC_FAILED_PRECONDITION, "etcdserver: role name not found"},
    [OUT_ROLE_EMPTY] = {GRPC_INVALID_ARGUMENT, "etcdserver: role name is empty"},
    [OUT_AUTH_FAILED] = {GRPC_INVALID_ARGUMENT,
                         "etcdserver: authentication failed, invalid user ID or password"},
    [OUT_PERMISSION_NOT_GIVEN] = {GRPC_INVALID_ARGUMENT, "etcdserver: permission not given"},
    [OUT_PERMISSION_DENIED] = {GRPC_PERMISSION_DENIED, "etcdserver: permission denied"},
    [OUT_ROLE_NOT_GRANTED] = {GRPC_FAILED_PRECONDITION,
                              "etcdserver: role is not granted to the user"},
    [OUT_PERMISSION_NOT_GRANTED] = {GRPC_FAILED_PRECONDITION,
                                    "etcdserver: permission is not granted to the role"},
    [OUT_AUTH_NOT_ENABLED] = {GRPC_FAILED_PRECONDITION,
                              "etcdserver: authentication is not enabled"},
    [OUT_INVALID_AUTH_TOKEN] = {GRPC_UNAUTHENTICATED, "etcdserver: invalid auth token"},
    [OUT_INVALID_AUTH_MGMT] = {GRPC_INVALID_ARGUMENT, "etcdserver: invalid auth management"},
    [OUT_AUTH_OLD_REVISION] = {GRPC_INVALID_ARGUMENT, "etcdserver: revision of auth store is old"},
    /* not in etcd's table: the text of the Go error as it is */
    [OUT_NO_PASSWORD_USER] =
        {GRPC_UNKNOWN,
         "auth: authentication failed, password was given for no password user"},
    [OUT_PASSWORD_TOO_LONG] = {GRPC_UNKNOWN, "bcrypt: password length exceeds 72 bytes"},

    [OUT_WATCH_TOO_SLOW] = {GRPC_RESOURCE_EXHAUSTED,
                            "etcdserver: watch canceled: its client is too slow"},
    /* as etcd's raft says it, which its server passes on */
    [OUT_NOT_PROPOSED] = {GRPC_DEADLINE_EXCEEDED, "context deadline exceeded"},
};

static const char *const code_names[GRPC_CODE_COUNT] = {
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
};

struct grpc_status grpc_status_of_outcome(int outcome)
{
    if (outcome < 0 || outcome >= OUT_COUNT || table[outcome].text == NULL)
        return (struct grpc_status){GRPC_UNKNOWN, "etcdserver: unknown error"};
    return table[outcome];
}

const char *grpc_code_name(enum grpc_code code)
{
    return code < GRPC_CODE_COUNT ? code_names[code] : code_names[GRPC_UNKNOWN];
}

void grpc_message_encode(struct buf *b, struct bytes text)
{
    static const char hex[] = "0123456789ABCDEF";

    for (size_t i = 0; i < text.len; i++) {
        uint8_t c = text.data[i];

        if (c >= 0x20 && c <= 0x7e && c != '%') {
            buf_append_u8(b, c);
            continue;
        }
        buf_append_u8(b, '%');
        buf_append_u8(b, (uint8_t)hex[c >> 4]);
        buf_append_u8(b, (uint8_t)hex[c & 15]);
    }
}
