/* role add, delete, get, list, grant-permission, revoke-permission. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "ctl/cmd.h"
#include "ctl/ctl.h"
#include "ctl/print.h"
#include "lib/util/xmalloc.h"

static int run_add(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__AuthRoleAddRequest request = ETCDSERVERPB__AUTH_ROLE_ADD_REQUEST__INIT;
    const char *name = ctl_only_arg(a, "role add command requires role name as its argument");

    request.name = ctl_string(name);
    print_done(c, ctl_ask(c, &ctl_method_role_add, &request), "Role %s created", name);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_command cmd_add = {
    .use = "add <role name>", .summary = "Adds a new role", .run = run_add};

static int run_delete(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__AuthRoleDeleteRequest request = ETCDSERVERPB__AUTH_ROLE_DELETE_REQUEST__INIT;
    const char *name = ctl_only_arg(a, "role delete command requires role name as its argument");

    request.role = ctl_string(name);
    print_done(c, ctl_ask(c, &ctl_method_role_delete, &request), "Role %s deleted", name);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_command cmd_delete = {
    .use = "delete <role name>", .summary = "Deletes a role", .run = run_delete};

/* ---- get, list ---- */

static bool same(ProtobufCBinaryData a, ProtobufCBinaryData b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

static bool is_open(ProtobufCBinaryData end)
{
    return end.len == 1 && end.data[0] == 0;
}

static void print_range(const Authpb__Permission *p)
{
    putchar('\t');
    if (p->range_end.len == 0) {
        fwrite(p->key.data, 1, p->key.len, stdout);
        putchar('\n');
        return;
    }
    putchar('[');
    fwrite(p->key.data, 1, p->key.len, stdout);
    fputs(", ", stdout);
    if (is_open(p->range_end)) {
        fputs("<open ended>", stdout);
    } else {
        ProtobufCBinaryData end = ctl_prefix_end(p->key);

        fwrite(p->range_end.data, 1, p->range_end.len, stdout);
        putchar(')');
        if (same(end, p->range_end)) {
            fputs(" (prefix ", stdout);
            fwrite(p->key.data, 1, p->key.len, stdout);
            putchar(')');
        }
        if (!is_open(end))
            free(end.data);
    }
    putchar('\n');
}

void cmd_role_print(const struct ctl *c, const char *name,
                    const Etcdserverpb__AuthRoleGetResponse *r)
{
    static const struct {
        const char *title;
        Authpb__Permission__Type type;
    } parts[] = {{"KV Read:", AUTHPB__PERMISSION__TYPE__READ},
                 {"KV Write:", AUTHPB__PERMISSION__TYPE__WRITE}};

    printf("Role %s\n", name);
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        puts(parts[i].title);
        for (size_t j = 0; j < r->n_perm; j++)
            if (r->perm[j]->permtype == parts[i].type ||
                r->perm[j]->permtype == AUTHPB__PERMISSION__TYPE__READWRITE)
                print_range(r->perm[j]);
    }
}

static void print_fields(const Etcdserverpb__AuthRoleGetResponse *r)
{
    static const char *const types[] = {"READ", "WRITE", "READWRITE"};

    print_header_fields(r->header);
    for (size_t i = 0; i < r->n_perm; i++) {
        const Authpb__Permission *p = r->perm[i];

        printf("\"PermType\" :  %s\n",
               (unsigned int)p->permtype < ARRAY_LEN(types) ? types[p->permtype] : "UNKNOWN");
        print_quoted_field("", "Key", p->key.data, p->key.len);
        print_quoted_field("", "RangeEnd", p->range_end.data, p->range_end.len);
    }
}

static int run_get(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__AuthRoleGetRequest request = ETCDSERVERPB__AUTH_ROLE_GET_REQUEST__INIT;
    const char *name = ctl_only_arg(a, "role get command requires role name as its argument");
    Etcdserverpb__AuthRoleGetResponse *r;

    request.role = ctl_string(name);
    r = ctl_ask(c, &ctl_method_role_get, &request);
    if (c->format == CTL_FORMAT_FIELDS)
        print_fields(r);
    else if (!print_encoded_or_simple(c, r))
        cmd_role_print(c, name, r);
    ctl_answer_free(r);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_command cmd_role_get = {
    .use = "get <role name>", .summary = "Gets detailed information of a role", .run = run_get};

static int run_list(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__AuthRoleListRequest request = ETCDSERVERPB__AUTH_ROLE_LIST_REQUEST__INIT;
    Etcdserverpb__AuthRoleListResponse *r;

    if (a->argc != 0)
        ctl_die(CTL_EXIT_BAD_ARGS, "role list command requires no arguments");
    r = ctl_ask(c, &ctl_method_role_list, &request);
    if (c->format == CTL_FORMAT_FIELDS) {
        print_header_fields(r->header);
        fputs("\"Roles\" :", stdout);
        for (size_t i = 0; i < r->n_roles; i++)
            printf(" \"%s\"", r->roles[i]);
        putchar('\n');
    } else if (!print_encoded_or_simple(c, r)) {
        for (size_t i = 0; i < r->n_roles; i++)
            puts(r->roles[i]);
    }
    ctl_answer_free(r);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_command cmd_list = {
    .use = "list", .summary = "Lists all roles", .run = run_list};

/* ---- permissions ---- */

/* Key and end from the arguments that start at `at`, and the two flags. */
static void key_range(const struct ctl_args *a, size_t at, ProtobufCBinaryData *ret_key,
                      ProtobufCBinaryData *ret_end)
{
    bool prefix = ctl_args_bool(a, "prefix"), from_key = ctl_args_bool(a, "from-key");

    *ret_key = ctl_data(a->argv[at]);
    *ret_end = (ProtobufCBinaryData){0};
    if (a->argc > at + 1 && prefix)
        ctl_die(CTL_EXIT_BAD_ARGS, "unexpected endkey argument with --prefix flag");
    if (a->argc > at + 1 && from_key)
        ctl_die(CTL_EXIT_BAD_ARGS, "unexpected endkey argument with --from-key flag");
    if (prefix && from_key)
        ctl_die(CTL_EXIT_BAD_ARGS, "--from-key and --prefix flags are mutually exclusive");
    if (a->argc > at + 1) {
        *ret_end = ctl_data(a->argv[at + 1]);
    } else if (prefix) {
        *ret_end = ctl_prefix_end(*ret_key);
        if (ret_key->len == 0)
            *ret_key = ctl_zero_byte();
    } else if (from_key) {
        *ret_end = ctl_zero_byte();
        if (ret_key->len == 0)
            *ret_key = ctl_zero_byte();
    }
}

static int run_grant(struct ctl *c, struct ctl_args *a)
{
    static const struct {
        const char *name;
        Authpb__Permission__Type type;
    } types[] = {{"READ", AUTHPB__PERMISSION__TYPE__READ},
                 {"WRITE", AUTHPB__PERMISSION__TYPE__WRITE},
                 {"READWRITE", AUTHPB__PERMISSION__TYPE__READWRITE}};
    Etcdserverpb__AuthRoleGrantPermissionRequest request =
        ETCDSERVERPB__AUTH_ROLE_GRANT_PERMISSION_REQUEST__INIT;
    Authpb__Permission permission = AUTHPB__PERMISSION__INIT;
    size_t i = 0;

    if (a->argc < 3)
        ctl_die(CTL_EXIT_BAD_ARGS,
                "role grant command requires role name, permission type, and key [endkey] as its "
                "argument");
    while (i < ARRAY_LEN(types) && strcasecmp(types[i].name, a->argv[1]) != 0)
        i++;
    if (i == ARRAY_LEN(types))
        ctl_die(CTL_EXIT_BAD_ARGS, "invalid permission type: %s", a->argv[1]);
    permission.permtype = types[i].type;
    key_range(a, 2, &permission.key, &permission.range_end);
    request.name = ctl_string(a->argv[0]);
    request.perm = &permission;
    print_done(c, ctl_ask(c, &ctl_method_role_grant, &request), "Role %s updated", a->argv[0]);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_flag grant_flags[] = {
    CTL_BOOL("from-key", "grant a permission of keys that are greater than or equal to the given "
                         "key using byte compare"),
    CTL_BOOL("prefix", "grant a prefix permission"), CTL_FLAGS_END};
static const struct ctl_command cmd_grant = {
    .use = "grant-permission [options] <role name> <permission type> <key> [endkey]",
    .summary = "Grants a key to a role",
    .flags = grant_flags,
    .run = run_grant};

static int run_revoke(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__AuthRoleRevokePermissionRequest request =
        ETCDSERVERPB__AUTH_ROLE_REVOKE_PERMISSION_REQUEST__INIT;
    void *answer;

    if (a->argc < 2)
        ctl_die(CTL_EXIT_BAD_ARGS,
                "role revoke-permission command requires role name and key [endkey] as its "
                "argument");
    key_range(a, 1, &request.key, &request.range_end);
    request.role = ctl_string(a->argv[0]);
    answer = ctl_ask(c, &ctl_method_role_revoke, &request);
    if (request.range_end.len == 0)
        print_done(c, answer, "Permission of key %s is revoked from role %s", a->argv[1],
                   a->argv[0]);
    else if (is_open(request.range_end))
        print_done(c, answer, "Permission of range [%s, <open ended> is revoked from role %s",
                   a->argv[1], a->argv[0]);
    else
        print_done(c, answer, "Permission of range [%s, %.*s) is revoked from role %s", a->argv[1],
                   (int)request.range_end.len, request.range_end.data, a->argv[0]);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_flag revoke_flags[] = {
    CTL_BOOL("from-key", "revoke a permission of keys that are greater than or equal to the given "
                         "key using byte compare"),
    CTL_BOOL("prefix", "revoke a prefix permission"), CTL_FLAGS_END};
static const struct ctl_command cmd_revoke = {.use = "revoke-permission <role name> <key> [endkey]",
                                              .summary = "Revokes a key from a role",
                                              .flags = revoke_flags,
                                              .run = run_revoke};

static const struct ctl_command *const children[] = {
    &cmd_add, &cmd_delete, &cmd_role_get, &cmd_list, &cmd_grant, &cmd_revoke, NULL};
const struct ctl_command cmd_role = {
    .use = "role <subcommand>", .summary = "Role related commands", .children = children};
