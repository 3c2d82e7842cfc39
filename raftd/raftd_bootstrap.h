/*
 * Who is this member, and who are the others: the part of a first start that is a function of the
 * settings. Texts of refusals are etcd's.
 */
#ifndef CONCLAVE_RAFTD_BOOTSTRAP_H
#define CONCLAVE_RAFTD_BOOTSTRAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/buf.h"
#include "lib/util/url.h"
#include "raftd/raftd_members.h"

struct boot_member {
    char *name;
    struct url_list urls;
    uint64_t id; /* 0: not known yet */
};
/* The members of --initial-cluster, by name. */
struct boot_cluster {
    struct boot_member *list;
    size_t count;
};

/* 0, or -EINVAL with *ret_error (free()). */
int boot_cluster_parse(const char *text, struct boot_cluster *ret, char **ret_error);
void boot_cluster_fini(struct boot_cluster *c);
char *boot_cluster_text(const struct boot_cluster *c); /* "a=http://x:1,b=..." sorted; free() */
struct boot_member *boot_cluster_find(const struct boot_cluster *c, const char *name);

/* Whether `name` may be a member with these advertised peer URLs. Names in URLs that differ are
 * resolved, so this may block. */
int boot_cluster_check(const struct boot_cluster *c, const char *name,
                       const struct url_list *advertised, char **ret_error);
/* Fills the ids of a new cluster. */
uint64_t boot_cluster_derive(struct boot_cluster *c, const char *token);
/* Takes the ids of an existing cluster whose members are `remote`. */
int boot_cluster_match(struct boot_cluster *c, const struct raftd_members *remote,
                       char **ret_error);

/* Data of the log's first entries: one configuration entry per member, ascending by id. `ret_ends`
 * (count of them) are offsets in `b` where each entry's data ends. */
void boot_cluster_entries(struct boot_cluster *c, struct buf *b, size_t *ret_ends);
/* The same as a list of voters with their names (proto_member), ascending by id: the configuration
 * of a member that is restored. */
void boot_cluster_members(struct boot_cluster *c, struct buf *b);

#endif
