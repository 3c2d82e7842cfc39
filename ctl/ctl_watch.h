/*
 * One watch, kept up: when its stream breaks it is created again behind the last revision that was
 * seen, on whichever endpoint answers. It ends when the server cancels it.
 */
#ifndef CONCLAVE_CTL_CTL_WATCH_H
#define CONCLAVE_CTL_CTL_WATCH_H

#include <stdbool.h>
#include "ctl/ctl_client.h"
#include "lib/proto/etcd/rpc.pb-c.h"

struct loop;
struct ctl_watch;

struct ctl_watch_args {
    ProtobufCBinaryData key, range_end; /* borrowed for the watch's life */
    int64_t revision;                   /* 0: now */
    bool prev_kv, progress_notify;
    /* Each answer but the one that says "created". */
    void (*on_response)(void *user, const Etcdserverpb__WatchResponse *response);
    /* The watch is over; it must still be freed, also from here. message: see ctl_watch_reason for
     * a cancelled one; else why its stream cannot be made. */
    void (*on_ended)(void *user, const char *message);
    void *user;
};
struct ctl_watch *ctl_watch_new(struct loop *loop, struct ctl_client *client,
                                const struct ctl_watch_args *args);
void ctl_watch_free(struct ctl_watch *w);
void ctl_watch_request_progress(struct ctl_watch *w);
/* Why the server cancelled, in its words; free() */
char *ctl_watch_reason(const Etcdserverpb__WatchResponse *response);

#endif
