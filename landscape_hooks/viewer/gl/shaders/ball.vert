// A marker: a small lit ball of a fixed size in pixels, one an instance.
in vec3 centre;
in vec4 fill;
in vec4 ring;
in float radius;
uniform mat4 matrix;
uniform vec2 viewport;
uniform vec3 eye;
uniform vec3 forward;
uniform int orthographic;
uniform float lift;
uniform float line_scale;
out vec2 v_place;
flat out vec4 f_fill;
flat out vec4 f_ring;
flat out float f_radius;

void main() {
    vec3 p = orthographic == 1 ? centre - forward * lift * 4.0 : centre + (eye - centre) * lift;
    vec4 clip = matrix * vec4(p, 1.0);
    float pixels = radius * line_scale;
    vec2 corner = vec2((gl_VertexID & 1) == 1 ? 1.0 : -1.0, (gl_VertexID & 2) != 0 ? 1.0 : -1.0);
    v_place = corner * (pixels + 1.0);
    f_fill = fill;
    f_ring = ring;
    f_radius = pixels;
    gl_Position = clip + vec4(v_place * 2.0 / viewport * clip.w, 0.0, 0.0);
}
