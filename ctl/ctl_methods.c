/* The methods conclavectl calls: path, answer, and whether calling twice changes nothing. */
#include "ctl/ctl_client.h"
#include "lib/proto/etcd/rpc.pb-c.h"

#define METHOD(name, service, rpc, answer, reads)                                                  \
    const struct ctl_method ctl_method_##name = {.path = "/etcdserverpb." service "/" rpc,         \
                                                 .response =                                       \
                                                     &etcdserverpb__##answer##__descriptor,        \
                                                 .reads_only = reads}

METHOD(range, "KV", "Range", range_response, true);
METHOD(range_stream, "KV", "RangeStream", range_stream_response, true);
METHOD(put, "KV", "Put", put_response, false);
METHOD(delete, "KV", "DeleteRange", delete_range_response, false);
METHOD(txn, "KV", "Txn", txn_response, false);
METHOD(compact, "KV", "Compact", compaction_response, false);
METHOD(watch, "Watch", "Watch", watch_response, false);
METHOD(lease_grant, "Lease", "LeaseGrant", lease_grant_response, false);
METHOD(lease_revoke, "Lease", "LeaseRevoke", lease_revoke_response, false);
METHOD(lease_keep_alive, "Lease", "LeaseKeepAlive", lease_keep_alive_response, false);
METHOD(lease_ttl, "Lease", "LeaseTimeToLive", lease_time_to_live_response, true);
METHOD(lease_list, "Lease", "LeaseLeases", lease_leases_response, true);
METHOD(member_add, "Cluster", "MemberAdd", member_add_response, false);
METHOD(member_remove, "Cluster", "MemberRemove", member_remove_response, false);
METHOD(member_update, "Cluster", "MemberUpdate", member_update_response, false);
METHOD(member_list, "Cluster", "MemberList", member_list_response, true);
METHOD(member_promote, "Cluster", "MemberPromote", member_promote_response, false);
METHOD(alarm, "Maintenance", "Alarm", alarm_response, false);
METHOD(status, "Maintenance", "Status", status_response, true);
METHOD(defragment, "Maintenance", "Defragment", defragment_response, false);
METHOD(hash_kv, "Maintenance", "HashKV", hash_kvresponse, true);
METHOD(snapshot, "Maintenance", "Snapshot", snapshot_response, false);
METHOD(move_leader, "Maintenance", "MoveLeader", move_leader_response, false);
METHOD(downgrade, "Maintenance", "Downgrade", downgrade_response, false);
METHOD(auth_enable, "Auth", "AuthEnable", auth_enable_response, false);
METHOD(auth_disable, "Auth", "AuthDisable", auth_disable_response, false);
METHOD(auth_status, "Auth", "AuthStatus", auth_status_response, true);
METHOD(authenticate, "Auth", "Authenticate", authenticate_response, false);
METHOD(user_add, "Auth", "UserAdd", auth_user_add_response, false);
METHOD(user_get, "Auth", "UserGet", auth_user_get_response, true);
METHOD(user_list, "Auth", "UserList", auth_user_list_response, true);
METHOD(user_delete, "Auth", "UserDelete", auth_user_delete_response, false);
METHOD(user_passwd, "Auth", "UserChangePassword", auth_user_change_password_response, false);
METHOD(user_grant, "Auth", "UserGrantRole", auth_user_grant_role_response, false);
METHOD(user_revoke, "Auth", "UserRevokeRole", auth_user_revoke_role_response, false);
METHOD(role_add, "Auth", "RoleAdd", auth_role_add_response, false);
METHOD(role_get, "Auth", "RoleGet", auth_role_get_response, true);
METHOD(role_list, "Auth", "RoleList", auth_role_list_response, true);
METHOD(role_delete, "Auth", "RoleDelete", auth_role_delete_response, false);
METHOD(role_grant, "Auth", "RoleGrantPermission", auth_role_grant_permission_response, false);
METHOD(role_revoke, "Auth", "RoleRevokePermission", auth_role_revoke_permission_response, false);
