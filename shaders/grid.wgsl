// The workgroups of a dispatch. Long grids are folded into two dimensions, see `Dispatch::groups`; groups past the end do
// nothing.

struct Group {
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
}

fn index_of(group: Group) -> u32 { return group.id.x + group.id.y * group.groups.x; }
