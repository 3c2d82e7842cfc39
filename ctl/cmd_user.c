/* user add, delete, get, list, passwd, grant-role, revoke-role. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "ctl/cmd.h"
#include "ctl/ctl.h"
#include "ctl/print.h"
#include "lib/util/xmalloc.h"

/* Asks twice on the terminal, or takes one word of standard input. */
static char *ask_password(const char *name, bool interactive)
{
    CLEANUP(freep) char *first_prompt = xasprintf("Password of %s: ", name);
    CLEANUP(freep)
    char *second_prompt = xasprintf("Type password of %s again for confirmation: ", name);
    char *first, *second;

    if (!interactive) {
        size_t len;
        char *all = ctl_read_stdin(&len), *word = all + strspn(all, " \t\r\n");

        word[strcspn(word, " \t\r\n")] = '\0';
        memmove(all, word, strlen(word) + 1);
        return all;
    }
    first = ctl_read_password(first_prompt);
    second = first != NULL ? ctl_read_password(second_prompt) : NULL;
    if (second == NULL)
        ctl_die(CTL_EXIT_BAD_ARGS, "failed to ask password: EOF.");
    if (strcmp(first, second) != 0)
        ctl_die(CTL_EXIT_BAD_ARGS, "given passwords are different");
    free(second);
    return first;
}

/* ---- add ---- */

static int run_add(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__AuthUserAddRequest request = ETCDSERVERPB__AUTH_USER_ADD_REQUEST__INIT;
    Authpb__UserAddOptions options = AUTHPB__USER_ADD_OPTIONS__INIT;
    const char *given = ctl_args_string(a, "new-user-password");
    const char *colon;

    if (a->argc != 1)
        ctl_die(CTL_EXIT_BAD_ARGS, "user add command requires user name as its argument");
    request.options = &options;
    request.name = ctl_string(a->argv[0]);
    options.no_password = ctl_args_bool(a, "no-password");
    if (!options.no_password && *given != '\0') {
        request.password = ctl_string(given);
    } else if (!options.no_password) {
        colon = strchr(a->argv[0], ':');
        if (colon == NULL) {
            ctl_connect(c);
            request.password = ask_password(a->argv[0], ctl_args_bool(a, "interactive"));
        } else {
            request.name = xstrndup(a->argv[0], (size_t)(colon - a->argv[0]));
            request.password = ctl_string(colon + 1);
        }
        if (*request.name == '\0')
            ctl_die(CTL_EXIT_BAD_ARGS, "empty user name is not allowed");
    }
    print_done(c, ctl_ask(c, &ctl_method_user_add, &request), "User %s created", request.name);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_flag add_flags[] = {
    {.name = "interactive",
     .type = CTL_FLAG_BOOL,
     .initial = "true",
     .usage = "Read password from stdin instead of interactive terminal"},
    CTL_STRING("new-user-password", "", "Supply password from the command line flag"),
    CTL_BOOL("no-password", "Create a user without password (CN based auth only)"),
    CTL_FLAGS_END};
static const struct ctl_command cmd_add = {.use = "add <user name or user:password> [options]",
                                           .summary = "Adds a new user",
                                           .flags = add_flags,
                                           .run = run_add};

/* ---- delete ---- */

static int run_delete(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__AuthUserDeleteRequest request = ETCDSERVERPB__AUTH_USER_DELETE_REQUEST__INIT;
    const char *name = ctl_only_arg(a, "user delete command requires user name as its argument");

    request.name = ctl_string(name);
    print_done(c, ctl_ask(c, &ctl_method_user_delete, &request), "User %s deleted", name);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_command cmd_delete = {
    .use = "delete <user name>", .summary = "Deletes a user", .run = run_delete};

/* ---- get, list ---- */

static void print_details(struct ctl *c, const Etcdserverpb__AuthUserGetResponse *user)
{
    for (size_t i = 0; i < user->n_roles; i++) {
        Etcdserverpb__AuthRoleGetRequest request = ETCDSERVERPB__AUTH_ROLE_GET_REQUEST__INIT;
        Etcdserverpb__AuthRoleGetResponse *role;

        request.role = user->roles[i];
        role = ctl_ask(c, &ctl_method_role_get, &request);
        putchar('\n');
        cmd_role_print(c, user->roles[i], role);
        ctl_answer_free(role);
    }
}

static int run_get(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__AuthUserGetRequest request = ETCDSERVERPB__AUTH_USER_GET_REQUEST__INIT;
    const char *name = ctl_only_arg(a, "user get command requires user name as its argument");
    Etcdserverpb__AuthUserGetResponse *r;

    request.name = ctl_string(name);
    r = ctl_ask(c, &ctl_method_user_get, &request);
    if (ctl_args_bool(a, "detail")) {
        printf("User: %s\n", name);
        print_details(c, r);
    } else if (!print_encoded_or_simple(c, r)) {
        printf("User: %s\nRoles:", name);
        for (size_t i = 0; i < r->n_roles; i++)
            printf(" %s", r->roles[i]);
        putchar('\n');
    }
    ctl_answer_free(r);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_flag get_flags[] = {
    CTL_BOOL("detail", "Show permissions of roles granted to the user"), CTL_FLAGS_END};
static const struct ctl_command cmd_user_get = {.use = "get <user name> [options]",
                                                .summary = "Gets detailed information of a user",
                                                .flags = get_flags,
                                                .run = run_get};

static int run_list(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__AuthUserListRequest request = ETCDSERVERPB__AUTH_USER_LIST_REQUEST__INIT;
    Etcdserverpb__AuthUserListResponse *r;

    if (a->argc != 0)
        ctl_die(CTL_EXIT_BAD_ARGS, "user list command requires no arguments");
    r = ctl_ask(c, &ctl_method_user_list, &request);
    if (!print_encoded_or_simple(c, r))
        for (size_t i = 0; i < r->n_users; i++)
            puts(r->users[i]);
    ctl_answer_free(r);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_command cmd_list = {
    .use = "list", .summary = "Lists all users", .run = run_list};

/* ---- passwd ---- */

static int run_passwd(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__AuthUserChangePasswordRequest request =
        ETCDSERVERPB__AUTH_USER_CHANGE_PASSWORD_REQUEST__INIT;
    const char *name = ctl_only_arg(a, "user passwd command requires user name as its argument");

    request.name = ctl_string(name);
    request.password = ask_password(name, ctl_args_bool(a, "interactive"));
    print_done(c, ctl_ask(c, &ctl_method_user_passwd, &request), "Password updated");
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_flag passwd_flags[] = {
    {.name = "interactive",
     .type = CTL_FLAG_BOOL,
     .initial = "true",
     .usage = "If true, read password from stdin instead of interactive terminal"},
    CTL_FLAGS_END};
static const struct ctl_command cmd_passwd = {.use = "passwd <user name> [options]",
                                              .summary = "Changes password of user",
                                              .flags = passwd_flags,
                                              .run = run_passwd};

/* ---- roles of a user ---- */

static int run_grant_role(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__AuthUserGrantRoleRequest request =
        ETCDSERVERPB__AUTH_USER_GRANT_ROLE_REQUEST__INIT;

    if (a->argc != 2)
        ctl_die(CTL_EXIT_BAD_ARGS,
                "user grant command requires user name and role name as its argument");
    request.user = ctl_string(a->argv[0]);
    request.role = ctl_string(a->argv[1]);
    print_done(c, ctl_ask(c, &ctl_method_user_grant, &request), "Role %s is granted to user %s",
               a->argv[1], a->argv[0]);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_command cmd_grant_role = {.use = "grant-role <user name> <role name>",
                                                  .summary = "Grants a role to a user",
                                                  .run = run_grant_role};

static int run_revoke_role(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__AuthUserRevokeRoleRequest request =
        ETCDSERVERPB__AUTH_USER_REVOKE_ROLE_REQUEST__INIT;

    if (a->argc != 2)
        ctl_die(CTL_EXIT_BAD_ARGS,
                "user revoke-role requires user name and role name as its argument");
    request.name = ctl_string(a->argv[0]);
    request.role = ctl_string(a->argv[1]);
    print_done(c, ctl_ask(c, &ctl_method_user_revoke, &request), "Role %s is revoked from user %s",
               a->argv[1], a->argv[0]);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_command cmd_revoke_role = {.use = "revoke-role <user name> <role name>",
                                                   .summary = "Revokes a role from a user",
                                                   .run = run_revoke_role};

static const struct ctl_command *const children[] = {&cmd_add,         &cmd_delete, &cmd_user_get,
                                                     &cmd_list,        &cmd_passwd, &cmd_grant_role,
                                                     &cmd_revoke_role, NULL};
const struct ctl_command cmd_user = {
    .use = "user <subcommand>", .summary = "User related commands", .children = children};
