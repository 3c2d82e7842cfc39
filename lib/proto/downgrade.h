/*
 * Which cluster version a downgrade may go to (etcd Maintenance.Downgrade): the minor release
 * before the cluster's own, one downgrade at a time.
 */
#ifndef CONCLAVE_PROTO_DOWNGRADE_H
#define CONCLAVE_PROTO_DOWNGRADE_H

#include <stdbool.h>
#include <stddef.h>
#include "lib/util/bytes.h"

enum { DOWNGRADE_TEXT_BYTES = 48 };

/* "3.6" or "3.6.4" from a client becomes "3.6.0"; OUT_WRONG_DOWNGRADE_VERSION_FORMAT. */
int downgrade_target(struct bytes text, char ret[DOWNGRADE_TEXT_BYTES]);
/* OUT_CLUSTER_VERSION_UNAVAILABLE, OUT_INVALID_DOWNGRADE_TARGET, OUT_DOWNGRADE_IN_PROGRESS. */
int downgrade_check(struct bytes cluster_version, bool under_way, struct bytes target);
/* "3.7.0" as clients are told it: "3.7". Borrowed. */
struct bytes downgrade_shown(struct bytes cluster_version);

#endif
