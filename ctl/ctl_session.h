/*
 * A lease kept alive for as long as a command runs, and the queue of keys below a name that locks
 * and elections are made of: who created the oldest key is the owner; who waits, waits until all
 * older ones are gone.
 */
#ifndef CONCLAVE_CTL_CTL_SESSION_H
#define CONCLAVE_CTL_CTL_SESSION_H

#include "ctl/ctl.h"

struct ctl_session;

/* Dies when no lease is granted. SIGINT and SIGTERM are noted from here on. */
struct ctl_session *ctl_session_new(struct ctl *c, int64_t ttl_s);
/* Revokes the lease. */
void ctl_session_free(struct ctl_session *s);
bool ctl_session_lost(const struct ctl_session *s);
bool ctl_session_interrupted(const struct ctl_session *s);

struct ctl_place {
    char *key; /* "<name>/<lease in hex>" */
    int64_t create_revision;
    int64_t header_revision; /* of the answer that said it is the first */
};
/* Takes a place in the queue and waits to be the first. 0, or -ECANCELED: interrupted (the place
 * is given up), or -ESTALE: the session ended. */
int ctl_session_enter(struct ctl_session *s, const char *name, const char *value,
                      struct ctl_place *ret);
void ctl_session_leave(struct ctl_session *s, struct ctl_place *place);

#endif
