/* conclavectl's flags and commands: what a line means, and what is said when it means nothing. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "ctl/ctl_flags.h"
#include "lib/util/macros.h"

static const struct ctl_flag get_flags[] = {
    {.name = "prefix", .type = CTL_FLAG_BOOL, .initial = "false", .usage = ""},
    {.name = "limit", .type = CTL_FLAG_INT, .initial = "0", .usage = ""},
    {.name = "order", .type = CTL_FLAG_STRING, .initial = "", .usage = "", .shorthand = 'o'},
    {.name = "ops", .type = CTL_FLAG_UINT, .initial = "128", .usage = ""},
    {.name = NULL}};
static const struct ctl_command get = {
    .use = "get [options] <key>", .summary = "", .flags = get_flags};
static const struct ctl_command list = {.use = "list", .summary = ""};
static const struct ctl_command add = {.use = "add <name>", .summary = ""};
static const struct ctl_command addendum = {.use = "addendum", .summary = ""};
static const struct ctl_command *const member_children[] = {&add, &addendum, &list, NULL};
static const struct ctl_command member = {
    .use = "member <subcommand>", .summary = "", .children = member_children};
static const struct ctl_command *const root_children[] = {&get, &member, NULL};
static const struct ctl_command root = {.use = "tool", .summary = "", .children = root_children};
static const struct ctl_flag globals[] = {
    {.name = "debug", .type = CTL_FLAG_BOOL, .initial = "false", .usage = ""},
    {.name = "endpoints", .type = CTL_FLAG_LIST, .initial = "127.0.0.1:2379", .usage = ""},
    {.name = "timeout", .type = CTL_FLAG_DURATION, .initial = "5s", .usage = ""},
    {.name = "write-out",
     .type = CTL_FLAG_STRING,
     .initial = "simple",
     .usage = "",
     .shorthand = 'w'},
    {.name = NULL}};

/* Splits at blanks; "''" is the empty word. */
static size_t split(char *line, const char **words)
{
    size_t count = 0;

    for (char *word = strtok(line, " "); word != NULL; word = strtok(NULL, " "))
        words[count++] = strcmp(word, "''") == 0 ? "" : word;
    return count;
}

Test(ctl_flags, lines_that_mean_something)
{
    static const struct {
        const char *line;
        const struct ctl_command *command;
        const char *positional;   /* joined by blanks */
        const char *flag, *value; /* one to look at */
    } rows[] = {
        {"get k", &get, "k", NULL, NULL},
        {"get k --limit 3", &get, "k", "limit", "3"},
        {"get --limit=3 k", &get, "k", "limit", "3"},
        {"get --limit 0x10 k", &get, "k", "limit", "0x10"},
        {"get --limit -1 k", &get, "k", "limit", "-1"},
        {"get --prefix k e", &get, "k e", "prefix", "true"},
        {"get --prefix=false k", &get, "k", "prefix", "false"},
        {"get -w json k", &get, "k", "write-out", "json"},
        {"get -wjson k", &get, "k", "write-out", "json"},
        {"get -w=json k", &get, "k", "write-out", "json"},
        {"-w json get k", &get, "k", "write-out", "json"},
        {"--debug get k", &get, "k", "debug", "true"},
        {"--write-out json get k", &get, "k", "write-out", "json"},
        {"get k -- --limit", &get, "k --limit", "limit", "0"},
        {"get -- -k", &get, "-k", NULL, NULL},
        {"get -", &get, "-", NULL, NULL},
        {"get ''", &get, "", NULL, NULL},
        {"get --order '' k", &get, "k", "order", ""},
        {"get --endpoints a --endpoints b,c k", &get, "k", "endpoints", "a,b,c"},
        {"get --timeout 1m30s k", &get, "k", "timeout", "1m30s"},
        {"member list", &list, "", NULL, NULL},
        {"mem li", &list, "", NULL, NULL},
        {"member add", &add, "", NULL, NULL}, /* a full name, though a prefix of another */
        {"member adde", &addendum, "", NULL, NULL},
        {"member", &member, "", NULL, NULL},
        {"member nothing", &member, "nothing", NULL, NULL},
        {"member ad", &member, "ad", NULL, NULL}, /* of two */
        {"", &root, "", NULL, NULL},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        CLEANUP(ctl_args_fini) struct ctl_args args;
        char line[128], joined[128] = "", *error = NULL;
        const char *words[16];
        size_t count;

        snprintf(line, sizeof(line), "%s", rows[i].line);
        count = split(line, words);
        cr_assert_eq(ctl_args_parse(&root, globals, words, count, &args, &error), CTL_PARSE_OK,
                     "%s: %s", rows[i].line, error);
        cr_assert_eq(args.command, rows[i].command, "%s", rows[i].line);
        for (size_t j = 0; j < args.argc; j++) {
            strcat(joined, j > 0 ? " " : "");
            strcat(joined, args.argv[j]);
        }
        cr_assert_str_eq(joined, rows[i].positional, "%s", rows[i].line);
        if (rows[i].flag != NULL)
            cr_assert_str_eq(ctl_args_string(&args, rows[i].flag), rows[i].value, "%s",
                             rows[i].line);
    }
}

Test(ctl_flags, lines_that_mean_nothing)
{
    static const struct {
        const char *line;
        enum ctl_parse result;
        const char *error;
    } rows[] = {
        {"bogus", CTL_PARSE_UNKNOWN_COMMAND, "unknown command \"bogus\" for \"tool\""},
        {"gett", CTL_PARSE_UNKNOWN_COMMAND,
         "unknown command \"gett\" for \"tool\"\n\nDid you mean this?\n\tget\n"},
        {"--bogus get k", CTL_PARSE_UNKNOWN_COMMAND, /* the unknown flag takes a value */
         "unknown command \"k\" for \"tool\""},
        {"get --bogus k", CTL_PARSE_BAD_FLAG, "unknown flag: --bogus"},
        {"get -x k", CTL_PARSE_BAD_FLAG, "unknown shorthand flag: 'x' in -x"},
        {"get -xy k", CTL_PARSE_BAD_FLAG, "unknown shorthand flag: 'x' in -xy"},
        {"get k --limit", CTL_PARSE_BAD_FLAG, "flag needs an argument: --limit"},
        {"get k -w", CTL_PARSE_BAD_FLAG, "flag needs an argument: 'w' in -w"},
        {"get --=x", CTL_PARSE_BAD_FLAG, "bad flag syntax: --=x"},
        {"get ---x", CTL_PARSE_BAD_FLAG, "bad flag syntax: ---x"},
        {"get --limit x", CTL_PARSE_BAD_FLAG,
         "invalid argument \"x\" for \"--limit\" flag: strconv.ParseInt: parsing \"x\": invalid "
         "syntax"},
        {"get --limit 9223372036854775808", CTL_PARSE_BAD_FLAG,
         "invalid argument \"9223372036854775808\" for \"--limit\" flag: strconv.ParseInt: parsing "
         "\"9223372036854775808\": value out of range"},
        {"get --ops -1", CTL_PARSE_BAD_FLAG,
         "invalid argument \"-1\" for \"--ops\" flag: strconv.ParseUint: parsing \"-1\": invalid "
         "syntax"},
        {"get --prefix=maybe", CTL_PARSE_BAD_FLAG,
         "invalid argument \"maybe\" for \"--prefix\" flag: strconv.ParseBool: parsing \"maybe\": "
         "invalid syntax"},
        {"get --timeout 5", CTL_PARSE_BAD_FLAG,
         "invalid argument \"5\" for \"--timeout\" flag: time: missing unit in duration \"5\""},
        {"get --timeout 5x", CTL_PARSE_BAD_FLAG,
         "invalid argument \"5x\" for \"--timeout\" flag: time: unknown unit \"x\" in duration "
         "\"5x\""},
        {"get --timeout s", CTL_PARSE_BAD_FLAG,
         "invalid argument \"s\" for \"--timeout\" flag: time: invalid duration \"s\""},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        CLEANUP(ctl_args_fini) struct ctl_args args;
        char line[128], *error = NULL;
        const char *words[16];
        size_t count;

        snprintf(line, sizeof(line), "%s", rows[i].line);
        count = split(line, words);
        cr_assert_eq(ctl_args_parse(&root, globals, words, count, &args, &error), rows[i].result,
                     "%s", rows[i].line);
        cr_assert_str_eq(error, rows[i].error, "%s", rows[i].line);
        free(error);
    }
}

Test(ctl_flags, the_dash_is_remembered)
{
    static const char *const words[] = {"get", "a", "b", "--", "c", "--", "d"};
    CLEANUP(ctl_args_fini) struct ctl_args args;
    char *error = NULL;

    cr_assert_eq(ctl_args_parse(&root, globals, words, ARRAY_LEN(words), &args, &error),
                 CTL_PARSE_OK);
    cr_assert_eq(args.dash, 2);
    cr_assert_eq(args.argc, 5);
    cr_assert_str_eq(args.argv[3], "--");
}

Test(ctl_flags, durations)
{
    static const struct {
        const char *text;
        int64_t ns; /* -1: refused */
    } rows[] = {{"0", 0},
                {"5s", 5000000000},
                {"1.5s", 1500000000},
                {"300ms", 300000000},
                {"2us", 2000},
                {"7ns", 7},
                {"1h1m1s", 3661000000000},
                {".5s", 500000000},
                {"", -1},
                {"s", -1},
                {"1", -1},
                {"1 s", -1},
                {"99999999999h", -1}};

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int64_t ns = 0;
        char *error = NULL;
        int r = ctl_parse_duration(rows[i].text, &ns, &error);

        cr_assert_eq(r, rows[i].ns < 0 ? -EINVAL : 0, "%s", rows[i].text);
        if (r == 0)
            cr_assert_eq(ns, rows[i].ns, "%s", rows[i].text);
        free(error);
    }
}
