/*
 * A gRPC client of an etcd v3 cluster: one HTTP/2 connection per endpoint, calls go round-robin
 * over those that are up. A call waits while none is, up to its deadline. What was certainly not
 * executed is sent again elsewhere; a call that only reads also when its outcome is unknown.
 *
 * Calls have callbacks; ctl_client_unary turns the loop until one is answered. Nothing calls back
 * before ctl_call_start returns. Everything is for the loop thread.
 */
#ifndef CONCLAVE_CTL_CTL_CLIENT_H
#define CONCLAVE_CTL_CTL_CLIENT_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include "lib/util/bytes.h"

struct loop;
struct tls_context;
struct ctl_client;
struct ctl_call;

struct ctl_method {
    const char *path; /* "/etcdserverpb.KV/Range" */
    const ProtobufCMessageDescriptor *response;
    bool reads_only; /* may be sent twice */
};
extern const struct ctl_method ctl_method_range, ctl_method_range_stream, ctl_method_put,
    ctl_method_delete, ctl_method_txn, ctl_method_compact, ctl_method_watch, ctl_method_lease_grant,
    ctl_method_lease_revoke, ctl_method_lease_keep_alive, ctl_method_lease_ttl,
    ctl_method_lease_list, ctl_method_member_add, ctl_method_member_remove,
    ctl_method_member_update, ctl_method_member_list, ctl_method_member_promote, ctl_method_alarm,
    ctl_method_status, ctl_method_defragment, ctl_method_hash_kv, ctl_method_snapshot,
    ctl_method_move_leader, ctl_method_downgrade, ctl_method_auth_enable, ctl_method_auth_disable,
    ctl_method_auth_status, ctl_method_authenticate, ctl_method_user_add, ctl_method_user_get,
    ctl_method_user_list, ctl_method_user_delete, ctl_method_user_passwd, ctl_method_user_grant,
    ctl_method_user_revoke, ctl_method_role_add, ctl_method_role_get, ctl_method_role_list,
    ctl_method_role_delete, ctl_method_role_grant, ctl_method_role_revoke;

enum { CTL_REQUEST_BYTES_DEFAULT = 2 << 20 }; /* as etcd's client library */

struct ctl_client_conf {
    /* "host:port", "http://host:port", "https://host:port", "unix://path", "unixs://path"; copied
     */
    char **endpoints;
    size_t endpoint_count;
    uint64_t dial_ms;
    uint64_t keepalive_ms, keepalive_timeout_ms; /* with open calls; 0: no pings */
    struct tls_context *tls;                     /* NULL: plain; borrowed */
    const char *tls_name;                        /* NULL: the endpoint's host */
    const char *token;                           /* sent with each call; NULL or "": none */
    uint64_t request_bytes_max;                  /* of one request; 0: CTL_REQUEST_BYTES_DEFAULT */
    uint64_t answer_bytes_max;                   /* of one message; 0: INT32_MAX */
    bool quiet; /* no warning line on stderr when no endpoint can be reached */
};

/* NULL with *ret_error when an endpoint makes no sense. */
struct ctl_client *ctl_client_new(struct loop *loop, const struct ctl_client_conf *conf,
                                  char **ret_error);
void ctl_client_free(struct ctl_client *client); /* drops its calls without a word */
void ctl_client_set_token(struct ctl_client *client, const char *token);
/* Asks for a new token with these when the server no longer knows the old one. */
void ctl_client_set_user(struct ctl_client *client, const char *name, const char *password);
size_t ctl_client_endpoint_count(const struct ctl_client *client);

enum { /* gRPC status codes that mean something here */
       CTL_OK = 0,
       CTL_CANCELED = 1,
       CTL_UNKNOWN = 2,
       CTL_INVALID_ARGUMENT = 3,
       CTL_DEADLINE_EXCEEDED = 4,
       CTL_NOT_FOUND = 5,
       CTL_PERMISSION_DENIED = 7,
       CTL_RESOURCE_EXHAUSTED = 8,
       CTL_FAILED_PRECONDITION = 9,
       CTL_OUT_OF_RANGE = 11,
       CTL_UNIMPLEMENTED = 12,
       CTL_INTERNAL = 13,
       CTL_UNAVAILABLE = 14,
       CTL_UNAUTHENTICATED = 16,
};

struct ctl_error {
    int code;      /* 0: none */
    char *message; /* as the user reads it */
};
void ctl_error_fini(struct ctl_error *e);

struct ctl_call_handler {
    /* One message of the answer; a unary call has one. */
    void (*on_message)(void *user, struct bytes message);
    /* The call is over and gone. message as the user reads it; "" when code is 0. */
    void (*on_done)(void *user, int code, const char *message);
};

struct ctl_call_args {
    const struct ctl_method *method;
    const ProtobufCMessage *request; /* NULL: none yet (streams) */
    bool stream;                     /* more requests follow; is never sent again by itself */
    bool require_leader;
    uint64_t timeout_ms; /* 0: none */
    const struct ctl_call_handler *handler;
    void *user;
};
struct ctl_call *ctl_call_start(struct ctl_client *client, const struct ctl_call_args *args);
void ctl_call_send(struct ctl_call *call, const ProtobufCMessage *message);
void ctl_call_finish(struct ctl_call *call); /* no more requests */
/* Gone at once, without on_done. */
void ctl_call_free(struct ctl_call *call);

/* Turns the loop until the answer is there. 0 and *ret (protobuf_c_message_free_unpacked), or the
 * code and *ret_error filled. */
int ctl_client_unary(struct ctl_client *client, const struct ctl_method *method,
                     const ProtobufCMessage *request, uint64_t timeout_ms, ProtobufCMessage **ret,
                     struct ctl_error *ret_error);

/* "etcdserver: ..." as it is, anything else as "rpc error: code = ... desc = ...". free() */
char *ctl_error_text(int code, const char *message);

#endif
