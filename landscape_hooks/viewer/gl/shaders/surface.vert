// A vertex of the surface: place and normal in the scene, share of the height range, grid coordinates.
in vec3 position;
in vec3 normal;
in float share;
in float occlusion;
in vec2 cell;
in vec3 tint;
uniform mat4 matrix;
out vec3 v_position;
out vec3 v_normal;
out float v_share;
out float v_occlusion;
out vec2 v_cell;
out vec3 v_tint;

void main() {
    v_position = position;
    v_normal = normal;
    v_share = share;
    v_occlusion = occlusion;
    v_cell = cell;
    v_tint = tint;
    gl_Position = matrix * vec4(position, 1.0);
}
