// Text and panels, in pixels of the picture from the top left.
in vec2 place;
in vec2 uv;
in vec4 tone;
uniform vec2 size;
out vec2 v_uv;
out vec4 v_tone;

void main() {
    v_uv = uv;
    v_tone = tone;
    gl_Position = vec4(place.x / size.x * 2.0 - 1.0, 1.0 - place.y / size.y * 2.0, 0.0, 1.0);
}
